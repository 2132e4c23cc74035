// SPDX-License-Identifier: Apache-2.0
#include "cache/trouble.h"

#include "base/event.h"

namespace fastoci {
namespace {

constexpr auto kSayAgain = std::chrono::seconds(60);

}  // namespace

void Trouble::Set(uint32_t cache, const std::string& text) {
  const bool first = text_.empty();
  if (text_ == text) return;
  text_ = text;
  EventFields fields;
  const auto now = std::chrono::steady_clock::now();
  if (text.empty()) {
    fields.kind = "cache_works";
    LogEvent(LogLevel::kInfo, fields, "cache %u: works again", cache);
  } else if (first || now - logged_ >= kSayAgain) {
    logged_ = now;
    fields.kind = "cache_fault";
    LogEvent(LogLevel::kError, fields, "cache %u: %s", cache, text.c_str());
  }
}

}  // namespace fastoci
