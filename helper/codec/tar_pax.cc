// SPDX-License-Identifier: Apache-2.0
// PAX records: "<length> <key>=<value>\n", where length counts the whole record.
#include <charconv>
#include <optional>

#include "base/base64.h"
#include "codec/tar_reader.h"

namespace fastoci {
namespace {

constexpr char kSchily[] = "SCHILY.xattr.";
constexpr char kLibarchive[] = "LIBARCHIVE.xattr.";

std::optional<std::string> UrlDecode(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    unsigned v = 0;
    if (i + 3 > text.size()) return std::nullopt;
    auto [end, ec] = std::from_chars(text.data() + i + 1, text.data() + i + 3, v, 16);
    if (ec != std::errc() || end != text.data() + i + 3) return std::nullopt;
    out += static_cast<char>(v);
    i += 2;
  }
  return out;
}

Status AddXattr(std::map<std::string, std::string>* xattrs, std::string name, std::string value) {
  if (name.empty() || name.find('\0') != std::string::npos)
    return InvalidError("bad name of an extended attribute");
  (*xattrs)[std::move(name)] = std::move(value);
  if (xattrs->size() > kMaxTarXattrs) return InvalidError("too many extended attributes");
  return OkStatus();
}

Status AddRecord(const std::string& key, std::string value, PaxRecords* records) {
  if (key.starts_with(kSchily))
    return AddXattr(&records->xattrs, key.substr(sizeof(kSchily) - 1), std::move(value));
  if (key.starts_with(kLibarchive)) {
    auto name = UrlDecode(key.substr(sizeof(kLibarchive) - 1));
    auto bytes = Base64Decode(value);
    if (!name || !bytes.ok()) return InvalidError("bad LIBARCHIVE.xattr record");
    return AddXattr(&records->libarchive_xattrs, *name, *bytes);
  }
  if (key == "GNU.sparse.offset" || key == "GNU.sparse.numbytes") {
    // They come in pairs, in this order.
    bool offset = key == "GNU.sparse.offset";
    if (offset != (records->sparse_numbers.size() % 2 == 0))
      return InvalidError("GNU.sparse.offset and numbytes out of order");
    records->sparse_numbers.push_back(std::move(value));
    return OkStatus();
  }
  if (key.find('\0') != std::string::npos || key.empty()) return InvalidError("bad PAX key");
  records->values[key] = std::move(value);
  return OkStatus();
}

}  // namespace

Status ParsePax(ByteSpan body, PaxRecords* records) {
  const char* p = reinterpret_cast<const char*>(body.data());
  const char* end = p + body.size();
  while (p < end) {
    if (*p == '\0') break;  // some writers pad with NULs
    size_t length = 0;
    auto [number_end, ec] = std::from_chars(p, end, length);
    if (ec != std::errc() || number_end == end || *number_end != ' ')
      return InvalidError("PAX record without a length");
    size_t used = static_cast<size_t>(number_end - p) + 1;
    if (length <= used + 1 || length > static_cast<size_t>(end - p) || p[length - 1] != '\n')
      return InvalidError("PAX record with a wrong length");
    std::string record(number_end + 1, p + length - 1);
    size_t equals = record.find('=');
    if (equals == std::string::npos) return InvalidError("PAX record without a value");
    FASTOCI_CHECK_OK(AddRecord(record.substr(0, equals), record.substr(equals + 1), records));
    p += length;
  }
  return OkStatus();
}

}  // namespace fastoci
