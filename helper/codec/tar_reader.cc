// SPDX-License-Identifier: Apache-2.0
#include "codec/tar_reader.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>

namespace fastoci {
namespace {

// Header fields: offset, length.
struct Field {
  size_t at, bytes;
};
constexpr Field kName{0, 100}, kMode{100, 8}, kUid{108, 8}, kGid{116, 8}, kSize{124, 12},
    kMtime{136, 12}, kChecksum{148, 8}, kLinkName{157, 100}, kMagic{257, 8}, kDevMajor{329, 8},
    kDevMinor{337, 8}, kPrefix{345, 155}, kStarPrefix{345, 131};
// GNU's times, where ustar has the prefix.
constexpr Field kAccessTime{345, 12}, kChangeTime{357, 12};
constexpr size_t kTypeAt = 156, kStarTrailerAt = 508;
constexpr size_t kOldSparseAt = 386, kOldSparseMore = 482, kOldSparseSize = 483;
constexpr size_t kOldSparseExtMore = 504;
constexpr int kOldSparseFirst = 4, kOldSparseExt = 21;

std::string Text(const uint8_t* block, Field f) {
  const char* p = reinterpret_cast<const char*>(block) + f.at;
  return std::string(p, strnlen(p, f.bytes));
}

// Octal, or base-256 when the first byte has its top bit set.
std::optional<int64_t> Number(const uint8_t* block, Field f) {
  const uint8_t* p = block + f.at;
  if (p[0] & 0x80) {
    bool negative = (p[0] & 0x40) != 0;
    uint8_t invert = negative ? 0xff : 0;
    uint64_t v = 0;
    for (size_t i = 0; i < f.bytes; i++) {
      uint8_t c = p[i] ^ invert;
      if (i == 0) c &= 0x7f;
      if (v >> 55) return std::nullopt;
      v = v << 8 | c;
    }
    return negative ? ~static_cast<int64_t>(v) : static_cast<int64_t>(v);
  }
  size_t begin = 0, end = f.bytes;
  while (begin < end && (p[begin] == ' ' || p[begin] == 0)) begin++;
  while (end > begin && (p[end - 1] == ' ' || p[end - 1] == 0)) end--;
  int64_t v = 0;
  for (size_t i = begin; i < end; i++) {
    if (p[i] == 0 || p[i] == ' ') break;  // what follows is not part of the number
    if (p[i] < '0' || p[i] > '7') return std::nullopt;
    v = v * 8 + (p[i] - '0');  // 12 digits at most: no overflow
  }
  return v;
}

// Go before 1.8 wrote long paths with large numbers under GNU's magic but with ustar's prefix. As its
// readers since then: what does not read as times, and is ASCII, is that prefix.
std::string OldGoPrefix(const uint8_t* block) {
  const bool times = (block[kAccessTime.at] == 0 || Number(block, kAccessTime)) &&
                     (block[kChangeTime.at] == 0 || Number(block, kChangeTime));
  const std::string prefix = times ? "" : Text(block, kPrefix);
  const bool ascii = std::all_of(prefix.begin(), prefix.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
  return ascii ? prefix : "";
}

bool IsZero(ByteSpan data) {
  return std::all_of(data.begin(), data.end(), [](uint8_t b) { return b == 0; });
}

bool ChecksumOk(const uint8_t* block) {
  int64_t sum = 0, signed_sum = 0;
  for (size_t i = 0; i < kTarBlockBytes; i++) {
    uint8_t b = i >= kChecksum.at && i < kChecksum.at + kChecksum.bytes ? ' ' : block[i];
    sum += b;
    signed_sum += static_cast<int8_t>(b);
  }
  auto stored = Number(block, kChecksum);
  return stored && (*stored == sum || *stored == signed_sum);
}

template <typename T>
std::optional<T> Decimal(const std::string& text) {
  T v = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (ec != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return v;
}

// "[-]seconds[.fraction]"; the fraction is cut to nanoseconds, towards the past.
bool PaxTime(const std::string& text, int64_t* sec, uint32_t* nsec) {
  size_t dot = text.find('.');
  std::string whole = text.substr(0, dot);
  auto s = Decimal<int64_t>(whole == "-" || whole.empty() ? whole + "0" : whole);
  if (!s || *s > INT64_MAX / 2 || *s < INT64_MIN / 2) return false;
  uint32_t ns = 0;
  if (dot != std::string::npos) {
    std::string fraction = text.substr(dot + 1);
    if (fraction.find_first_not_of("0123456789") != std::string::npos) return false;
    fraction.resize(9, '0');
    ns = *Decimal<uint32_t>(fraction);
  }
  bool negative = text[0] == '-';
  *sec = negative && ns != 0 ? *s - 1 : *s;
  *nsec = negative && ns != 0 ? 1000000000 - ns : ns;
  return true;
}

// Brings a path into the form that TarEntry promises. ".." takes the component
// before it away, even if that is a symbolic link. At the root of an absolute path
// it takes nothing away.
Status Normalize(const std::string& text, const char* what, std::string* out) {
  if (text.size() > kMaxTarPathBytes) return InvalidError(std::string(what) + " is too long");
  if (text.find('\0') != std::string::npos)
    return InvalidError(std::string(what) + " has a NUL in it");
  std::vector<std::string_view> names;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('/', at), text.size());
    const std::string_view name(text.data() + at, end - at);
    at = end + 1;
    if (name.empty() || name == ".") continue;
    if (name == "..") {
      if (!names.empty()) {
        names.pop_back();
      } else if (text[0] != '/') {
        return InvalidError(std::string(what) + " leaves the root: '" + text.substr(0, 200) + "'");
      }
      continue;
    }
    names.push_back(name);
  }
  out->clear();
  for (const std::string_view name : names) {
    if (name.size() > kMaxTarNameBytes)
      return InvalidError("a component of " + std::string(what) + " is too long");
    if (!out->empty()) *out += '/';
    out->append(name);
  }
  return OkStatus();
}

std::optional<TarType> TypeOf(char c) {
  switch (c) {
    case '0': case '\0': case '7': case 'S': return TarType::kFile;
    case '1': return TarType::kHardLink;
    case '2': return TarType::kSymlink;
    case '3': return TarType::kCharDevice;
    case '4': return TarType::kBlockDevice;
    case '5': return TarType::kDirectory;
    case '6': return TarType::kFifo;
    default: return std::nullopt;
  }
}

// Null if the record is missing or empty: an empty value cancels a record.
const std::string* Find(const PaxRecords& records, const char* key) {
  auto it = records.values.find(key);
  return it == records.values.end() || it->second.empty() ? nullptr : &it->second;
}

}  // namespace

Error TarReader::Refuse(const std::string& why) const {
  return InvalidError("tar entry at offset " + std::to_string(entry_.header_offset) + ": " + why);
}

Status TarReader::Update(ByteSpan data) {
  while (!data.empty() && state_ != State::kEnded) FASTOCI_CHECK_OK(Step(&data));
  offset_ += data.size();
  return OkStatus();
}

Status TarReader::Step(ByteSpan* data) {
  if (state_ == State::kData) {
    ByteSpan part = data->first(std::min<uint64_t>(left_, data->size()));
    FASTOCI_CHECK_OK(sink_->OnData(entry_.data_bytes - left_, part));
    offset_ += part.size();
    left_ -= part.size();
    *data = data->subspan(part.size());
    if (left_ != 0) return OkStatus();
    left_ = -entry_.data_bytes % kTarBlockBytes;
    if (left_ == 0) return EndEntry();
    state_ = State::kPadding;
    return OkStatus();
  }
  if (state_ == State::kPadding) {
    ByteSpan part = data->first(std::min<uint64_t>(left_, data->size()));
    zero_padding_ = zero_padding_ && IsZero(part);
    offset_ += part.size();
    left_ -= part.size();
    *data = data->subspan(part.size());
    return left_ == 0 ? EndEntry() : OkStatus();
  }
  size_t n = std::min(kTarBlockBytes - block_fill_, data->size());
  std::memcpy(block_ + block_fill_, data->data(), n);
  block_fill_ += n;
  offset_ += n;
  *data = data->subspan(n);
  if (block_fill_ < kTarBlockBytes) return OkStatus();
  block_fill_ = 0;
  return OnBlock();
}

Status TarReader::OnBlock() {
  switch (state_) {
    case State::kHeader: return OnHeader();
    case State::kSparseHeader: return OnOldSparse(false);
    case State::kSparseMap: return ReadSparseMap();
    default: break;
  }
  size_t n = std::min<uint64_t>(left_, kTarBlockBytes);
  body_.insert(body_.end(), block_, block_ + n);
  left_ -= n;
  return left_ == 0 ? OnBody() : OkStatus();
}

Status TarReader::Finish() {
  if (state_ == State::kEnded) return OkStatus();
  if (state_ == State::kPadding) return EndEntry();
  if (state_ != State::kHeader || block_fill_ != 0)
    return Refuse("the stream ends in the middle of an entry");
  return OkStatus();
}

Status TarReader::OnHeader() {
  if (!in_entry_) {
    entry_ = TarEntry();
    entry_.header_offset = offset_ - kTarBlockBytes;
  }
  if (IsZero(block_)) {
    if (++zero_blocks_ == 2) state_ = State::kEnded;
    return OkStatus();
  }
  if (zero_blocks_ != 0) return Refuse("data after half an end marker");
  if (!ChecksumOk(block_)) return Refuse("wrong header checksum");
  char type = static_cast<char>(block_[kTypeAt]);
  if (type != 'x' && type != 'g' && type != 'L' && type != 'K') return ParseHeader(type);

  auto size = Number(block_, kSize);
  if (!size || *size < 0 || static_cast<uint64_t>(*size) > kMaxTarPaxBytes)
    return Refuse("extension header larger than " + std::to_string(kMaxTarPaxBytes) + " bytes");
  body_kind_ = type == 'x'   ? Body::kPaxLocal
               : type == 'g' ? Body::kPaxGlobal
               : type == 'L' ? Body::kLongName
                             : Body::kLongLink;
  in_entry_ = true;
  body_.clear();
  left_ = static_cast<uint64_t>(*size);
  if (left_ == 0) return OnBody();
  state_ = State::kBody;
  return OkStatus();
}

Status TarReader::OnBody() {
  state_ = State::kHeader;
  std::string text(body_.begin(), std::find(body_.begin(), body_.end(), 0));
  Status s = OkStatus();
  switch (body_kind_) {
    case Body::kPaxLocal:
      local_ = PaxRecords();
      s = ParsePax(body_, &local_);
      break;
    case Body::kPaxGlobal: {
      // As in Go's reader: it must be well-formed, and it ends what belongs to the entry after it. That is all.
      PaxRecords ignored;
      s = ParsePax(body_, &ignored);
      local_ = PaxRecords();
      long_name_.clear();
      long_link_.clear();
      in_entry_ = false;
      break;
    }
    case Body::kLongName: long_name_ = std::move(text); break;
    case Body::kLongLink: long_link_ = std::move(text); break;
  }
  if (!s.ok()) return Refuse(s.error().message);
  return OkStatus();
}

Status TarReader::ParseHeader(char type) {
  auto entry_type = TypeOf(type);
  if (!entry_type)
    return Refuse("type '" + std::string(1, std::isprint(type) ? type : '?') + "' (" +
                  std::to_string(static_cast<unsigned char>(type)) + ") is not supported");
  entry_.type = *entry_type;
  auto mode = Number(block_, kMode), uid = Number(block_, kUid), gid = Number(block_, kGid),
       size = Number(block_, kSize), mtime = Number(block_, kMtime);
  if (!mode || !uid || !gid || !size || !mtime || *size < 0)
    return Refuse("a number in the header is damaged");
  if (*uid < 0 || *gid < 0 || *uid > UINT32_MAX || *gid > UINT32_MAX)
    return Refuse("user or group id out of range");
  entry_.mode = static_cast<uint32_t>(*mode & 07777);
  entry_.uid = static_cast<uint32_t>(*uid);
  entry_.gid = static_cast<uint32_t>(*gid);
  entry_.mtime_sec = *mtime;

  std::string magic(reinterpret_cast<const char*>(block_) + kMagic.at, kMagic.bytes);
  bool gnu = magic == std::string("ustar  \0", 8), ustar = magic.starts_with(std::string("ustar\0", 6));
  std::string name = Text(block_, kName);
  std::string prefix;
  if (gnu) prefix = OldGoPrefix(block_);
  if (ustar) {
    bool star = std::memcmp(block_ + kStarTrailerAt, "tar\0", 4) == 0;
    prefix = Text(block_, star ? kStarPrefix : kPrefix);
  }
  if (!prefix.empty()) name = prefix + "/" + name;
  if (entry_.type == TarType::kCharDevice || entry_.type == TarType::kBlockDevice) {
    auto major = Number(block_, kDevMajor), minor = Number(block_, kDevMinor);
    if (!(gnu || ustar) || !major || !minor || *major < 0 || *minor < 0 || *major > 0xfff ||
        *minor > 0xfffff)
      return Refuse("device number out of range");
    entry_.dev_major = static_cast<uint32_t>(*major);
    entry_.dev_minor = static_cast<uint32_t>(*minor);
  }
  std::string link = Text(block_, kLinkName);
  uint64_t data_bytes = static_cast<uint64_t>(*size);
  FASTOCI_CHECK_OK(ApplyPax(&name, &link, &data_bytes));
  // GNU's long names win over PAX's, and a sparse file's own name over both.
  if (!long_name_.empty()) name = long_name_;
  if (!long_link_.empty()) link = long_link_;
  if (const std::string* own = Find(local_, "GNU.sparse.name")) name = *own;
  if (type == '\0' && name.ends_with('/')) entry_.type = TarType::kDirectory;
  if (data_bytes > kMaxTarFileBytes)
    return Refuse("file larger than " + std::to_string(kMaxTarFileBytes) + " bytes");
  FASTOCI_CHECK_OK(SetNames(name, link));
  entry_.data_bytes = entry_.type == TarType::kFile ? data_bytes : 0;
  entry_.size = entry_.data_bytes;
  entry_.data_offset = offset_;
  if (type == 'S') return OnOldSparse(true);
  if (entry_.type == TarType::kFile) return SetPaxSparse();
  return EmitEntry();
}

Status TarReader::ApplyPax(std::string* name, std::string* link, uint64_t* size) {
  auto find = [this](const char* key) { return Find(local_, key); };
  if (const std::string* v = find("path")) *name = *v;
  if (const std::string* v = find("linkpath")) *link = *v;
  struct {
    const char* key;
    uint32_t* out;
  } ids[] = {{"uid", &entry_.uid}, {"gid", &entry_.gid}};
  for (auto& id : ids) {
    if (const std::string* v = find(id.key)) {
      auto n = Decimal<uint32_t>(*v);
      if (!n) return Refuse(std::string("PAX record ") + id.key + " is out of range");
      *id.out = *n;
    }
  }
  if (const std::string* v = find("size")) {
    auto n = Decimal<uint64_t>(*v);
    if (!n) return Refuse("PAX record size is damaged");
    *size = *n;
  }
  if (const std::string* v = find("mtime")) {
    if (!PaxTime(*v, &entry_.mtime_sec, &entry_.mtime_nsec))
      return Refuse("PAX record mtime is damaged");
  }
  // The SCHILY form wins: libarchive writes both.
  entry_.xattrs = local_.xattrs;
  entry_.xattrs.insert(local_.libarchive_xattrs.begin(), local_.libarchive_xattrs.end());
  return OkStatus();
}

Status TarReader::SetNames(const std::string& name, const std::string& link) {
  if (name.empty()) return Refuse("empty path");
  Status s = Normalize(name, "the path", &entry_.path);
  if (s.ok() && entry_.path.empty() && entry_.type != TarType::kDirectory)
    s = InvalidError("the root is not a directory");
  if (s.ok() && entry_.type == TarType::kHardLink) {
    s = Normalize(link, "the link's target", &entry_.link);
    if (s.ok() && entry_.link.empty()) s = InvalidError("hard link without a target");
  }
  if (s.ok() && entry_.type == TarType::kSymlink) {
    if (link.empty() || link.size() > kMaxTarPathBytes || link.find('\0') != std::string::npos)
      s = InvalidError("bad target of a symbolic link");
    entry_.link = link;
  }
  return s.ok() ? s : Status(Refuse(s.error().message));
}

Status TarReader::AddRun(uint64_t offset, uint64_t bytes) {
  if (bytes == 0) return OkStatus();
  uint64_t end = entry_.runs.empty() ? 0 : entry_.runs.back().file_offset + entry_.runs.back().bytes;
  if (offset < end || offset > entry_.size || bytes > entry_.size - offset)
    return Refuse("sparse map is not sorted or leaves the file");
  if (!entry_.runs.empty() && offset == end) {
    entry_.runs.back().bytes += bytes;
    return OkStatus();
  }
  if (entry_.runs.size() >= kMaxTarSparseRuns) return Refuse("too many sparse runs");
  entry_.runs.push_back({offset, bytes});
  return OkStatus();
}

Status TarReader::OnOldSparse(bool first) {
  if (first) {
    auto size = Number(block_, {kOldSparseSize, 12});
    if (!size || *size < 0 || static_cast<uint64_t>(*size) > kMaxTarFileBytes)
      return Refuse("bad size of a sparse file");
    entry_.sparse = true;
    entry_.size = static_cast<uint64_t>(*size);
  }
  size_t at = first ? kOldSparseAt : 0;
  for (int i = 0; i < (first ? kOldSparseFirst : kOldSparseExt); i++, at += 24) {
    if (block_[at] == 0 && block_[at + 12] == 0) break;
    auto offset = Number(block_, {at, 12}), bytes = Number(block_, {at + 12, 12});
    if (!offset || !bytes || *offset < 0 || *bytes < 0) return Refuse("damaged sparse map");
    FASTOCI_CHECK_OK(AddRun(static_cast<uint64_t>(*offset), static_cast<uint64_t>(*bytes)));
  }
  if (block_[first ? kOldSparseMore : kOldSparseExtMore] != 0) {
    state_ = State::kSparseHeader;
    return OkStatus();
  }
  return EmitEntry();
}

// PAX sparse files: 0.0 and 0.1 have their map in records, 1.0 before the data.
Status TarReader::SetPaxSparse() {
  auto find = [this](const char* key) { return Find(local_, key); };
  const std::string* major = find("GNU.sparse.major");
  const std::string* minor = find("GNU.sparse.minor");
  // Named versions of the old kind; usually they have no name.
  if (major && *major == "0" && minor && (*minor == "0" || *minor == "1")) major = nullptr;
  const std::string* real = find(major ? "GNU.sparse.realsize" : "GNU.sparse.size");
  const std::string* map = find("GNU.sparse.map");
  if (!major && !map && local_.sparse_numbers.empty() && !real) return EmitEntry();
  if (!real) real = find("GNU.sparse.realsize");
  auto size = real ? Decimal<uint64_t>(*real) : std::nullopt;
  if (!size || *size > kMaxTarFileBytes) return Refuse("bad size of a sparse file");
  entry_.sparse = true;
  entry_.size = *size;
  if (major) {
    if (*major != "1" || !minor || *minor != "0") return Refuse("unknown version of a sparse file");
    map_.clear();
    map_line_.clear();
    state_ = State::kSparseMap;
    return OkStatus();
  }
  std::vector<std::string> numbers = local_.sparse_numbers;
  for (size_t at = 0; map && at <= map->size();) {
    size_t end = std::min(map->find(',', at), map->size());
    numbers.push_back(map->substr(at, end - at));
    at = end + 1;
  }
  if (numbers.size() % 2 != 0) return Refuse("damaged sparse map");
  for (size_t i = 0; i < numbers.size(); i += 2) {
    auto offset = Decimal<uint64_t>(numbers[i]), bytes = Decimal<uint64_t>(numbers[i + 1]);
    if (!offset || !bytes) return Refuse("damaged sparse map");
    FASTOCI_CHECK_OK(AddRun(*offset, *bytes));
  }
  return EmitEntry();
}

// One block of a PAX 1.0 map: decimal numbers, one a line, the first one is the
// number of pairs; the data begins at the next block.
Status TarReader::ReadSparseMap() {
  if (entry_.data_bytes < kTarBlockBytes) return Refuse("sparse map longer than the data");
  entry_.data_bytes -= kTarBlockBytes;
  entry_.data_offset = offset_;
  for (uint8_t c : block_) {
    if (!map_.empty() && map_.size() == 1 + 2 * map_[0]) break;
    if (c != '\n') {
      if (map_line_.size() > 20) return Refuse("damaged sparse map");
      map_line_ += static_cast<char>(c);
      continue;
    }
    auto n = Decimal<uint64_t>(map_line_);
    if (!n || (map_.empty() && *n > kMaxTarSparseRuns)) return Refuse("damaged sparse map");
    map_.push_back(*n);
    map_line_.clear();
  }
  if (map_.empty() || map_.size() < 1 + 2 * map_[0]) return OkStatus();
  for (size_t i = 1; i + 1 < map_.size(); i += 2) FASTOCI_CHECK_OK(AddRun(map_[i], map_[i + 1]));
  return EmitEntry();
}

Status TarReader::EmitEntry() {
  if (entry_.sparse) {
    uint64_t sum = 0;
    for (const TarRun& run : entry_.runs) sum += run.bytes;
    if (sum != entry_.data_bytes) return Refuse("sparse map does not match the data");
  }
  entry_.data_offset = offset_;
  nr_entries_++;
  zero_padding_ = true;
  Status s = sink_->OnEntry(entry_);
  if (!s.ok()) return s.error().Wrap("tar entry at offset " + std::to_string(entry_.header_offset) +
                                     " ('" + entry_.path.substr(0, 200) + "')");
  left_ = entry_.data_bytes;
  if (left_ == 0) return EndEntry();
  state_ = State::kData;
  return OkStatus();
}

Status TarReader::EndEntry() {
  Status s = sink_->OnEntryEnd(zero_padding_);
  if (!s.ok()) return s.error().Wrap("tar entry at offset " + std::to_string(entry_.header_offset) +
                                     " ('" + entry_.path.substr(0, 200) + "')");
  state_ = State::kHeader;
  in_entry_ = false;
  local_ = PaxRecords();
  long_name_.clear();
  long_link_.clear();
  return OkStatus();
}

}  // namespace fastoci
