// SPDX-License-Identifier: Apache-2.0
// Members of JSON that somebody else wrote: what is missing, of another type, or
// asked of something that is no object reads as "", 0 or null.
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

// null where there is none.
template <typename Json>
const Json& JsonChild(const Json& object, const std::string& key) {
  static const Json kNone;
  if (!object.is_object()) return kNone;
  auto it = object.find(key);
  return it != object.end() ? *it : kNone;
}

}  // namespace fastoci

#endif  // FASTOCI_BASE_JSON_H_
