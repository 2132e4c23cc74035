// SPDX-License-Identifier: Apache-2.0
#include "registry/toml.h"

// Its assertions end the process for some malformed keys ("[.a]"); without them the parser says what is wrong.
#define TOML_ASSERT(expr) static_cast<void>(0)
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#define TOML_MAX_NESTED_VALUES 32
#include <toml++/toml.h>

#include <algorithm>

namespace fastoci {
namespace {

TomlTable Convert(const toml::table& from);

TomlValue Convert(const toml::node& from) {
  TomlValue v;
  v.line = from.source().begin.line;
  if (const auto* s = from.as_string()) {
    v.kind = TomlValue::Kind::kString;
    v.text = s->get();
  } else if (const auto* b = from.as_boolean()) {
    v.kind = TomlValue::Kind::kBool;
    v.boolean = b->get();
  } else if (const auto* n = from.as_integer()) {
    v.kind = TomlValue::Kind::kInteger;
    v.integer = n->get();
  } else if (const auto* a = from.as_array()) {
    v.kind = TomlValue::Kind::kArray;
    for (const toml::node& item : *a) v.items.push_back(Convert(item));
  } else if (const auto* t = from.as_table()) {
    v.kind = TomlValue::Kind::kTable;
    v.table = std::make_shared<TomlTable>(Convert(*t));
  }
  return v;
}

TomlTable Convert(const toml::table& from) {
  struct Placed {
    toml::source_position at;
    std::string key;
    TomlValue value;
  };
  std::vector<Placed> all;
  for (const auto& [key, node] : from)
    all.push_back({key.source().begin, std::string(key.str()), Convert(node)});
  std::stable_sort(all.begin(), all.end(),
                   [](const Placed& a, const Placed& b) { return a.at < b.at; });
  TomlTable table;
  for (Placed& p : all) table.entries.emplace_back(std::move(p.key), std::move(p.value));
  return table;
}

}  // namespace

const TomlValue* TomlTable::Find(const std::string& key) const {
  for (const auto& [name, value] : entries)
    if (name == key) return &value;
  return nullptr;
}

namespace {

// toml++ 3.3 has undefined behaviour for some characters outside of ASCII. Comments may have any;
// hosts, paths and headers have none.
Result<std::string> OnlyAscii(std::string text) {
  char quote = 0;  // of the string that we are in
  bool comment = false;
  size_t line = 1;
  for (size_t i = 0; i < text.size(); i++) {
    char& c = text[i];
    if (c == '\n') {
      line++;
      comment = false;
      quote = 0;
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      if (!comment)
        return InvalidError("line " + std::to_string(line) + ": a character that is not ASCII");
      c = '?';
    } else if (comment) {
      continue;
    } else if (quote) {
      if (c == '\\' && quote == '"') i++;
      else if (c == quote) quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else {
      comment = c == '#';
    }
  }
  return text;
}

}  // namespace

Result<TomlTable> ParseToml(const std::string& given) {
  FASTOCI_TRY(const std::string text, OnlyAscii(given));
  const toml::parse_result parsed = toml::parse(text);
  if (!parsed) {
    const toml::parse_error& e = parsed.error();
    return InvalidError("line " + std::to_string(e.source().begin.line) + ": " +
                        std::string(e.description()));
  }
  return Convert(parsed.table());
}

}  // namespace fastoci
