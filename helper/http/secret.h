// SPDX-License-Identifier: Apache-2.0
// Secret: a password or token. Prints as ***; the value is wiped when it goes.
#ifndef FASTOCI_HTTP_SECRET_H_
#define FASTOCI_HTTP_SECRET_H_

#include <string.h>

#include <ostream>
#include <string>
#include <utility>

namespace fastoci {

class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string value) : value_(std::move(value)) {}
  Secret(const Secret&) = default;
  Secret& operator=(const Secret&) = default;
  ~Secret() {
    if (!value_.empty()) explicit_bzero(value_.data(), value_.size());
  }
  bool empty() const { return value_.empty(); }
  // The only way to the value: easy to search for.
  const std::string& Reveal() const { return value_; }
  bool operator==(const Secret& o) const { return value_ == o.value_; }

 private:
  std::string value_;
};

inline std::ostream& operator<<(std::ostream& out, const Secret&) { return out << "***"; }

}  // namespace fastoci

#endif  // FASTOCI_HTTP_SECRET_H_
