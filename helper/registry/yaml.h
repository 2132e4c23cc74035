// SPDX-License-Identifier: Apache-2.0
// YAML as JSON, for configuration that others write. Every scalar becomes a
// string; aliases, several documents and keys that are no scalars are refused.
// JSON is YAML, too. The parser is libyaml; nothing of it shows here.
#ifndef FASTOCI_REGISTRY_YAML_H_
#define FASTOCI_REGISTRY_YAML_H_

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"

namespace fastoci {

// kInvalid: what is wrong, and in which line. Empty text is null.
Result<nlohmann::json> ParseYaml(const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_YAML_H_
