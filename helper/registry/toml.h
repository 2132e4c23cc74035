// SPDX-License-Identifier: Apache-2.0
// TOML as plain data, in the order of the file, which means something in
// hosts.toml. The parser is toml++; nothing of it shows here.
#ifndef FASTOCI_REGISTRY_TOML_H_
#define FASTOCI_REGISTRY_TOML_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace fastoci {

struct TomlTable;

struct TomlValue {
  enum class Kind { kString, kBool, kInteger, kArray, kTable, kOther } kind = Kind::kOther;
  std::string text;
  bool boolean = false;
  int64_t integer = 0;
  std::vector<TomlValue> items;
  std::shared_ptr<TomlTable> table;  // kTable
  uint32_t line = 0;                 // from 1
};

struct TomlTable {
  std::vector<std::pair<std::string, TomlValue>> entries;  // by where they stand in the file
  const TomlValue* Find(const std::string& key) const;     // null: there is none
};

// kInvalid: what is wrong, and in which line.
Result<TomlTable> ParseToml(const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_TOML_H_
