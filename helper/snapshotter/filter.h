// SPDX-License-Identifier: Apache-2.0
// containerd's filters, as List() gets them. A filter is a list of selectors with commas:
// "field", "field==value", "field!=value", "field~=regular expression". All of its selectors
// must hold. If there are several filters, one must match. Fields of a snapshot: kind, name,
// parent, labels.<key>. A part of a field, or a value, may be a quoted string.
#ifndef FASTOCI_SNAPSHOTTER_FILTER_H_
#define FASTOCI_SNAPSHOTTER_FILTER_H_

#include <regex>
#include <string>
#include <vector>

#include "base/result.h"
#include "snapshotter/store.h"

namespace fastoci {

class SnapshotFilter {
 public:
  static Result<SnapshotFilter> Parse(const std::vector<std::string>& filters);
  bool Matches(const Snapshot& snapshot) const;

 private:
  enum class Operator { kPresent, kEqual, kUnequal, kMatch };
  struct Selector {
    std::vector<std::string> field;
    Operator op = Operator::kPresent;
    std::string value;
    std::regex pattern;
    bool Holds(const Snapshot& snapshot) const;
  };
  class Parser;
  std::vector<std::vector<Selector>> any_;  // none: everything matches
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_FILTER_H_
