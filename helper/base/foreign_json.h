// SPDX-License-Identifier: Apache-2.0
// JSON that a registry, or whoever reaches us over the network, wrote. nlohmann's parser
// does not recurse, but copies and dumps do: a few megabytes of brackets would exhaust the
// stack. So the depth is bounded before anything is built.
#ifndef FASTOCI_BASE_FOREIGN_JSON_H_
#define FASTOCI_BASE_FOREIGN_JSON_H_

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/utf8.h"

namespace fastoci {

inline constexpr size_t kMaxForeignJsonDepth = 256;

// Whether arrays and objects lie in each other deeper than that. text need not be JSON.
bool JsonIsDeeperThan(std::string_view text, size_t depth);

// Returns a discarded value, of no type, if the text is not JSON or is too deep. Bytes that
// are not UTF-8 become U+FFFD, as docker and containerd read them. Json: nlohmann::json or
// nlohmann::ordered_json.
template <typename Json = nlohmann::json>
Json ParseForeignJson(std::string_view text) {
  const std::string good = ReplaceBadUtf8(text);
  if (JsonIsDeeperThan(good, kMaxForeignJsonDepth)) return Json(Json::value_t::discarded);
  return Json::parse(good, nullptr, /*allow_exceptions=*/false);
}

// The same for what must be an object. what: it, in the error.
template <typename Json = nlohmann::json>
Result<Json> ParseForeignObject(std::string_view text, const char* what) {
  Json j = ParseForeignJson<Json>(text);
  if (!j.is_object()) return InvalidError(std::string(what) + " is not a JSON object");
  return j;
}

}  // namespace fastoci

#endif  // FASTOCI_BASE_FOREIGN_JSON_H_
