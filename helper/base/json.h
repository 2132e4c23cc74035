// SPDX-License-Identifier: Apache-2.0
// Reads members of JSON that somebody else wrote. A member reads as "", 0 or null if it
// is missing, if it has another type, or if its parent is not an object.
#ifndef FASTOCI_BASE_JSON_H_
#define FASTOCI_BASE_JSON_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace fastoci {

// Json: nlohmann::json or nlohmann::ordered_json.
template <typename Json>
std::string JsonText(const Json& object, const std::string& key) {
  if (!object.is_object()) return "";
  auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->template get<std::string>() : "";
}

template <typename Json>
uint64_t JsonNumber(const Json& object, const std::string& key) {
  if (!object.is_object()) return 0;
  auto it = object.find(key);
  return it != object.end() && it->is_number_unsigned() ? it->template get<uint64_t>() : 0;
}

// Returns null if there is no such member.
template <typename Json>
const Json& JsonChild(const Json& object, const std::string& key) {
  static const Json kNone;
  if (!object.is_object()) return kNone;
  auto it = object.find(key);
  return it != object.end() ? *it : kNone;
}

}  // namespace fastoci

#endif  // FASTOCI_BASE_JSON_H_
