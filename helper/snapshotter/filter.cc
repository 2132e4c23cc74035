// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/filter.h"

#include <algorithm>
#include <cctype>

namespace fastoci {
namespace {

constexpr size_t kMaxPattern = 1024;  // std::regex recurses

bool IsFieldStart(char c) { return std::isalpha(static_cast<unsigned char>(c)) || c == '_'; }
bool IsField(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

}  // namespace

class SnapshotFilter::Parser {
 public:
  explicit Parser(const std::string& text) : text_(text) {}

  Result<std::vector<Selector>> Selectors() {
    std::vector<Selector> out;
    for (;;) {
      FASTOCI_TRY(Selector selector, One());
      out.push_back(std::move(selector));
      if (at_ == text_.size()) return out;
      if (text_[at_] != ',') return Bad("a comma");
      at_++;
    }
  }

 private:
  Error Bad(const std::string& wanted) const {
    return InvalidError("filter \"" + text_ + "\": at character " + std::to_string(at_ + 1) + ": " + wanted +
                        " is expected");
  }
  bool Take(const char* token) {
    const std::string word = token;
    if (text_.compare(at_, word.size(), word) != 0) return false;
    at_ += word.size();
    return true;
  }
  Result<Selector> One() {
    Selector out;
    do {
      FASTOCI_TRY(std::string part, Field());
      out.field.push_back(part);
    } while (Take("."));
    if (at_ == text_.size() || text_[at_] == ',') return out;
    if (Take("==")) out.op = Operator::kEqual;
    else if (Take("!=")) out.op = Operator::kUnequal;
    else if (Take("~=")) out.op = Operator::kMatch;
    else return Bad("==, != or ~=");
    FASTOCI_TRY(out.value, Value());
    if (out.op == Operator::kMatch) {
      if (out.value.size() > kMaxPattern) return Bad("a shorter pattern");
      try {
        out.pattern = std::regex(out.value, std::regex::extended);
      } catch (const std::regex_error&) {
        return Bad("a regular expression");
      }
    }
    return out;
  }
  Result<std::string> Field() {
    if (at_ < text_.size() && (text_[at_] == '"' || text_[at_] == '`')) return Quoted();
    const size_t begin = at_;
    if (at_ == text_.size() || !IsFieldStart(text_[at_])) return Bad("a field");
    while (at_ < text_.size() && IsField(text_[at_])) at_++;
    return text_.substr(begin, at_ - begin);
  }
  Result<std::string> Value() {
    if (at_ < text_.size() && (text_[at_] == '"' || text_[at_] == '`')) return Quoted();
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != ',' && !std::isspace(static_cast<unsigned char>(text_[at_]))) at_++;
    if (at_ == begin) return Bad("a value");
    return text_.substr(begin, at_ - begin);
  }
  // A string as Go writes them, with the escapes that its %q makes of text.
  Result<std::string> Quoted() {
    const char quote = text_[at_++];
    std::string out;
    while (at_ < text_.size() && text_[at_] != quote) {
      if (quote == '`' || text_[at_] != '\\') {
        out.push_back(text_[at_++]);
        continue;
      }
      if (++at_ == text_.size()) break;
      const char c = text_[at_++];
      const std::string from = "abfnrtv", to = "\a\b\f\n\r\t\v";
      if (const size_t i = from.find(c); i != std::string::npos) out.push_back(to[i]);
      else if (c == 'x') FASTOCI_CHECK_OK(Hex(2, &out));
      else if (c == 'u') FASTOCI_CHECK_OK(Hex(4, &out));
      else if (c == 'U') FASTOCI_CHECK_OK(Hex(8, &out));
      else out.push_back(c);
    }
    if (at_ == text_.size()) return Bad("a closing quote");
    at_++;
    return out;
  }
  Status Hex(size_t digits, std::string* out) {
    uint32_t v = 0;
    for (size_t i = 0; i < digits; i++, at_++) {
      if (at_ == text_.size() || !std::isxdigit(static_cast<unsigned char>(text_[at_]))) return Bad("a hex digit");
      const char c = static_cast<char>(std::tolower(text_[at_]));
      v = v << 4 | static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    auto byte = [&](uint32_t b) { out->push_back(static_cast<char>(b)); };
    auto tail = [&](uint32_t shift) { byte(0x80 | ((v >> shift) & 0x3f)); };
    if (digits == 2 || v < 0x80) byte(v);
    else if (v < 0x800) byte(0xc0 | v >> 6), tail(0);
    else if (v < 0x10000) byte(0xe0 | v >> 12), tail(6), tail(0);
    else byte(0xf0 | (v >> 18 & 7)), tail(12), tail(6), tail(0);
    return OkStatus();
  }
  const std::string& text_;
  size_t at_ = 0;
};

Result<SnapshotFilter> SnapshotFilter::Parse(const std::vector<std::string>& filters) {
  SnapshotFilter out;
  for (const std::string& filter : filters) {
    if (filter.empty()) return SnapshotFilter();  // it matches everything
    FASTOCI_TRY(auto selectors, Parser(filter).Selectors());
    out.any_.push_back(std::move(selectors));
  }
  return out;
}

bool SnapshotFilter::Selector::Holds(const Snapshot& s) const {
  std::string have;
  bool present = true;
  if (field[0] == "kind") {
    have = SnapshotKindName(s.kind);
  } else if (field[0] == "name") {
    have = s.name;
  } else if (field[0] == "parent") {
    have = s.parent;
  } else if (field[0] == "labels") {
    std::string key;
    for (size_t i = 1; i < field.size(); i++) key += (i > 1 ? "." : "") + field[i];
    auto it = s.labels.find(key);
    present = it != s.labels.end();
    if (present) have = it->second;
  } else {
    present = false;
  }
  switch (op) {
    case Operator::kPresent: return present;
    case Operator::kEqual: return present && have == value;
    case Operator::kUnequal: return have != value;
    case Operator::kMatch: return std::regex_search(have, pattern);
  }
  return false;
}

bool SnapshotFilter::Matches(const Snapshot& s) const {
  if (any_.empty()) return true;
  return std::any_of(any_.begin(), any_.end(), [&](const auto& selectors) {
    return std::all_of(selectors.begin(), selectors.end(), [&](const Selector& one) { return one.Holds(s); });
  });
}

}  // namespace fastoci
