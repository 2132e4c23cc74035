// SPDX-License-Identifier: Apache-2.0
#include "registry/duration.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>

namespace fastoci {
namespace {

constexpr double kMaxMs = 3650.0 * 86400 * 1000;
constexpr size_t kMaxDigits = 15;

}  // namespace

Result<int64_t> ParseDurationMs(const std::string& text) {
  struct Unit {
    std::string name;
    double ms;
  };
  static const Unit kUnits[] = {{"ms", 1},        {"us", 1e-3}, {"ns", 1e-6},
                                {"h", 3600 * 1e3}, {"m", 60e3},  {"s", 1e3}};
  if (text == "0") return int64_t{0};
  double total = 0;
  size_t at = 0;
  while (at < text.size()) {
    const size_t digits = text.find_first_not_of("0123456789.", at);
    if (digits == at || digits == std::string::npos || digits - at > kMaxDigits) break;
    const double n = std::strtod(text.substr(at, digits - at).c_str(), nullptr);
    const Unit* unit = std::find_if(std::begin(kUnits), std::end(kUnits), [&](const Unit& u) {
      return text.compare(digits, u.name.size(), u.name) == 0;
    });
    if (unit == std::end(kUnits)) break;
    total += n * unit->ms;
    at = digits + unit->name.size();
  }
  if (text.empty() || at < text.size())
    return InvalidError("\"" + text.substr(0, 40) + "\" is not a duration such as \"5s\"");
  return static_cast<int64_t>(std::min(total, kMaxMs));
}

}  // namespace fastoci
