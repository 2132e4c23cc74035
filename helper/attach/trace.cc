// SPDX-License-Identifier: Apache-2.0
#include "attach/trace.h"

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/byte_reader.h"
#include "base/json.h"
#include "control/client.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int64_t kStatMs = 5000;
constexpr auto kAskAgain = std::chrono::milliseconds(100);
constexpr size_t kMaxReads = 2000000;
constexpr size_t kMaxRecords = 500000;
constexpr size_t kMaxFiles = 2000000;
constexpr size_t kExtentsAtATime = 256;
constexpr char kTracefs[] = "/sys/kernel/tracing";
// Per CPU, and of all CPUs together: it is memory of the kernel, and the snapshotter has many traces at a time.
constexpr unsigned kMaxBufferKb = 4096, kMinBufferKb = 512, kAllBuffersKb = 32 << 10;

Status Put(const std::string& path, const std::string& text) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid() || ::write(fd.get(), text.data(), text.size()) < 0) return ErrnoError(path);
  return OkStatus();
}

uint64_t NumberBehind(const std::string& text, const char* key) {
  const size_t at = text.find(key);
  return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + std::strlen(key), nullptr, 10);
}

int64_t Ns(const Json& j, const char* key) {
  auto it = j.find(key);
  return it != j.end() && it->is_number_integer() ? it->get<int64_t>() : 0;
}

bool Flag(const Json& j, const char* key) {
  auto it = j.find(key);
  return it != j.end() && it->is_boolean() && it->get<bool>();
}

uint64_t Count(const Json& j, const char* key) {
  return static_cast<uint64_t>(std::max<int64_t>(Ns(j, key), 0));
}

TraceRequest RequestOf(const Json& j) {
  return {.blob = JsonText(j, "blob"),
          .span = Count(j, "span"),
          .spans = Count(j, "spans"),
          .attempt = Count(j, "try"),
          .bytes = Count(j, "bytes"),
          .background = Flag(j, "background"),
          .begin_ns = Ns(j, "begin"),
          .end_ns = Ns(j, "end"),
          .network_ns = Ns(j, "network"),
          .decode_ns = Ns(j, "decode"),
          .verify_ns = Ns(j, "verify"),
          .write_ns = Ns(j, "write"),
          .error = JsonText(j, "error")};
}

}  // namespace

// "     cat-1234    [000] d..1.   123.456789: fastoci_map: image=1 sector=8 nr_sectors=8 hit"
std::optional<TraceRead> ParseTraceLine(const std::string& line) {
  static constexpr char kEvent[] = ": fastoci_map: ";
  const size_t event = line.find(kEvent);
  if (event == std::string::npos) return std::nullopt;
  const size_t time = line.rfind(' ', event);
  const size_t cpu = line.find(" [");
  if (time == std::string::npos || cpu == std::string::npos || cpu > event) return std::nullopt;
  TraceRead read;
  const std::string clock = line.substr(time + 1, event - time - 1);
  char* end = nullptr;
  const uint64_t seconds = std::strtoull(clock.c_str(), &end, 10);
  if (*end != '.') return std::nullopt;
  std::string fraction = end + 1;
  fraction.resize(9, '0');
  read.at_ns = static_cast<int64_t>(seconds * 1000000000 + std::strtoull(fraction.c_str(), nullptr, 10));
  std::string program = line.substr(0, cpu);
  program.erase(0, program.find_first_not_of(' '));
  if (const size_t dash = program.rfind('-'); dash != std::string::npos) program.resize(dash);
  read.program = program;
  const std::string fields = line.substr(event + sizeof(kEvent) - 1);
  read.sector = NumberBehind(fields, "sector=");
  read.nr_sectors = NumberBehind(fields, "nr_sectors=");
  const std::string kind = fields.substr(std::min(fields.rfind(' '), fields.size() - 1) + 1);
  read.kind = kind.starts_with("hit")    ? TraceRead::kHit
              : kind.starts_with("miss") ? TraceRead::kMiss
              : kind.starts_with("meta") ? TraceRead::kMeta
                                         : TraceRead::kZero;
  return read;
}

void AddHelperLine(const std::string& line, Trace* trace) {
  const Json j = Json::parse(line, nullptr, false);
  if (!j.is_object()) return;
  const std::string event = JsonText(j, "event");
  if (event == "chunk" && trace->chunks.size() < kMaxRecords) {
    trace->chunks.push_back({.blob = JsonText(j, "blob"),
                             .chunk_no = static_cast<uint32_t>(Count(j, "chunk")),
                             .since_ns = Ns(j, "since"),
                             .picked_ns = Ns(j, "picked"),
                             .end_ns = Ns(j, "end"),
                             .ok = Flag(j, "ok")});
  } else if (event == "begun" && trace->requests.size() < kMaxRecords) {
    trace->requests.push_back(RequestOf(j));
    trace->requests.back().end_ns = 0;
  } else if ((event == "progress" || event == "request") && trace->requests.size() < kMaxRecords) {
    TraceRequest request = RequestOf(j);
    if (event == "progress") request.end_ns = 0;
    auto begun = std::find_if(trace->requests.rbegin(), trace->requests.rend(), [&](const TraceRequest& r) {
      return r.end_ns == 0 && r.begin_ns == request.begin_ns && r.span == request.span && r.blob == request.blob;
    });
    if (begun != trace->requests.rend()) *begun = request;
    else if (event == "request") trace->requests.push_back(request);
  } else if (const std::string error = JsonText(j, "error"); event.empty() && !error.empty()) {
    trace->notes.push_back("Misses and requests are not shown: the helper says: " + error);
  } else if (event == "lost") {
    trace->lost += Count(j, "count");
  } else if (event == "chunk" || event == "begun") {
    trace->lost++;
  }
}

Result<std::string> MakeTraceInstance(const std::string& instances) {
  static std::atomic<unsigned> made{0};  // one process may watch several images
  const std::string prefix = "fastoci-";
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(instances, ignored)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(prefix)) continue;
    const auto pid = static_cast<pid_t>(std::strtol(name.c_str() + prefix.size(), nullptr, 10));
    // Another PID namespace's process may live nevertheless: then its instance is busy, and stays.
    if (pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH) ::rmdir(entry.path().c_str());
  }
  for (;;) {
    const std::string dir = instances + "/" + prefix + std::to_string(::getpid()) + "-" + std::to_string(made++);
    // In a container each life of a process has the same number. What an earlier one left is not busy.
    if (::mkdir(dir.c_str(), 0700) == 0 || (errno == EEXIST && ::rmdir(dir.c_str()) == 0 && ::mkdir(dir.c_str(), 0700) == 0))
      return dir;
    if (errno != EEXIST && errno != EBUSY && errno != ENOTEMPTY) return ErrnoError(dir);
  }
}

unsigned TraceBufferKb(unsigned nr_cpus) {
  return std::clamp(kAllBuffersKb / std::max(nr_cpus, 1U), kMinBufferKb, kMaxBufferKb);
}

Result<ImageNumbers> AskImageNumbers(const std::string& control_socket, const std::string& name, int64_t wait_ms) {
  for (const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(wait_ms);;) {
    FASTOCI_TRY(Json stat, CallHelper(control_socket, {{"op", "stat"}}, kStatMs));
    for (const Json& image : JsonChild(stat, "images")) {
      if (JsonText(image, "name") != name) continue;
      ImageNumbers n;
      n.image_no = static_cast<uint32_t>(JsonNumber(image, "image"));
      for (const Json& cache : JsonChild(stat, "caches"))
        if (JsonNumber(cache, "cache") == JsonNumber(image, "cache")) n.chunk_bytes = JsonNumber(cache, "chunk_bytes");
      return n;
    }
    if (std::chrono::steady_clock::now() >= end)
      return NotFoundError("the helper does not serve " + name + " yet; try again in a moment");
    std::this_thread::sleep_for(kAskAgain);
  }
}

Result<KernelTrace> KernelTrace::Begin(uint32_t image_no) {
  if (::access((std::string(kTracefs) + "/instances").c_str(), F_OK) != 0 &&
      ::mount("tracefs", kTracefs, "tracefs", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0)
    return ErrnoError(std::string("mount tracefs at ") + kTracefs);
  KernelTrace trace;
  FASTOCI_TRY(const std::string dir, MakeTraceInstance(std::string(kTracefs) + "/instances"));
  trace.dir_ = dir;
  const std::string event = dir + "/events/fastoci/fastoci_map";
  FASTOCI_CHECK_OK(Put(dir + "/trace_clock", "mono"));
  FASTOCI_CHECK_OK(Put(dir + "/buffer_size_kb", std::to_string(TraceBufferKb(static_cast<unsigned>(::sysconf(_SC_NPROCESSORS_CONF))))));
  FASTOCI_CHECK_OK(Put(event + "/filter", "image == " + std::to_string(image_no)));
  trace.pipe_.reset(::open((dir + "/trace_pipe").c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!trace.pipe_.valid()) return ErrnoError(dir + "/trace_pipe");
  FASTOCI_CHECK_OK(Put(event + "/enable", "1"));
  return trace;
}

KernelTrace::KernelTrace(KernelTrace&& other) noexcept
    : dir_(std::exchange(other.dir_, "")),
      pipe_(std::move(other.pipe_)),
      partial_(std::move(other.partial_)) {}

KernelTrace::~KernelTrace() {
  if (dir_.empty()) return;
  Stop();
  pipe_.reset();  // an instance that is read is busy
  ::rmdir(dir_.c_str());
}

void KernelTrace::Stop() { (void)Put(dir_ + "/events/fastoci/fastoci_map/enable", "0").ok(); }

void KernelTrace::Read(Trace* trace) {
  char buffer[65536];
  for (ssize_t n; (n = ::read(pipe_.get(), buffer, sizeof(buffer))) > 0;) {
    partial_.append(buffer, static_cast<size_t>(n));
    size_t begin = 0;
    for (size_t end; (end = partial_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      const std::string line = partial_.substr(begin, end - begin);
      if (const size_t lost = line.find(" [LOST "); lost != std::string::npos)
        trace->lost += NumberBehind(line, " [LOST ");
      auto read = ParseTraceLine(line);
      if (!read) continue;
      if (trace->reads.size() < kMaxReads) trace->reads.push_back(std::move(*read));
      else trace->lost++;
    }
    partial_.erase(0, begin);
  }
}

Result<ExtentMap> ExtentMap::Read(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoError("open " + path);
  uint8_t sb[FASTOCI_META_SB_BYTES];
  FASTOCI_CHECK_OK(PreadFull(fd.get(), sb, 0, path));
  if (std::memcmp(sb, FASTOCI_META_MAGIC, 8) != 0)
    return InvalidError(path + " is not an assembled meta image");
  ByteReader counts(ByteSpan(sb).subspan(offsetof(struct fastoci_meta_sb, nr_blobs)));
  const uint32_t nr_blobs = counts.U32(), nr_extents = counts.U32();
  if (nr_blobs > FASTOCI_MAX_BLOBS || nr_extents == 0 || nr_extents > FASTOCI_MAX_EXTENTS)
    return InvalidError(path + ": impossible counts");
  auto region = [&](size_t at, size_t bytes) -> Result<Bytes> {
    const uint64_t offset = ByteReader(ByteSpan(sb).subspan(at)).U64();
    if (offset > INT64_MAX - bytes) return InvalidError(path + ": impossible region");
    Bytes data(bytes);
    FASTOCI_CHECK_OK(PreadFull(fd.get(), data, offset, path));
    return data;
  };
  FASTOCI_TRY(Bytes blobs, region(offsetof(struct fastoci_meta_sb, blobs), nr_blobs * 128UL));
  FASTOCI_TRY(Bytes keys, region(offsetof(struct fastoci_meta_sb, keys), nr_extents * 4UL));
  FASTOCI_TRY(Bytes payloads, region(offsetof(struct fastoci_meta_sb, payloads), nr_extents * 8UL));
  ExtentMap map;
  map.device_sectors_ = ByteReader(ByteSpan(sb).subspan(offsetof(struct fastoci_meta_sb, device_sectors))).U64();
  for (uint32_t i = 0; i < nr_blobs; i++)
    map.blobs_.push_back("sha256:" + HexEncode(ByteSpan(blobs).subspan(i * 128 + 32, 32)));
  ByteReader key(keys), payload(payloads);
  for (uint32_t i = 0; i < nr_extents; i++) {
    map.keys_.push_back(key.U32());
    map.payloads_.push_back(payload.U64());
    if (map.payloads_[i] >> FASTOCI_EXTENT_TYPE_SHIFT == FASTOCI_EXTENT_BLOB) map.by_data_.push_back(i);
  }
  // The payload of a blob's extent begins with the blob's number, and ends with the sector.
  std::sort(map.by_data_.begin(), map.by_data_.end(),
            [&](uint32_t a, uint32_t b) { return map.payloads_[a] < map.payloads_[b]; });
  return map;
}

std::optional<ExtentMap::Place> ExtentMap::Find(uint64_t sector) const {
  auto it = std::upper_bound(keys_.begin(), keys_.end(), sector);
  if (it == keys_.begin()) return std::nullopt;
  const auto i = static_cast<size_t>(it - keys_.begin()) - 1;
  const uint64_t p = payloads_[i];
  const uint64_t blob = p >> FASTOCI_EXTENT_BLOB_SHIFT & FASTOCI_EXTENT_BLOB_MASK;
  if (p >> FASTOCI_EXTENT_TYPE_SHIFT != FASTOCI_EXTENT_BLOB || blob >= blobs_.size())
    return std::nullopt;
  return Place{blobs_[blob], (p & FASTOCI_EXTENT_SECTOR_MASK) + sector - keys_[i],
               EndOf(i) > sector ? EndOf(i) - sector : 0};
}

std::optional<uint64_t> ExtentMap::SectorOf(const std::string& blob, uint64_t data_sector, uint64_t nr_sectors) const {
  const auto named = std::find(blobs_.begin(), blobs_.end(), blob);
  if (named == blobs_.end() || data_sector > FASTOCI_EXTENT_SECTOR_MASK) return std::nullopt;
  const auto number = static_cast<uint64_t>(named - blobs_.begin());
  const uint64_t wanted = FASTOCI_EXTENT_BLOB << FASTOCI_EXTENT_TYPE_SHIFT | number << FASTOCI_EXTENT_BLOB_SHIFT | data_sector;
  auto behind = std::upper_bound(by_data_.begin(), by_data_.end(), wanted,
                                 [&](uint64_t payload, uint32_t extent) { return payload < payloads_[extent]; });
  if (behind != by_data_.begin()) {  // one that begins before may reach into it
    const uint32_t extent = *std::prev(behind);
    const uint64_t skip = wanted - payloads_[extent];
    if (payloads_[extent] >> FASTOCI_EXTENT_BLOB_SHIFT == wanted >> FASTOCI_EXTENT_BLOB_SHIFT &&
        keys_[extent] + skip < EndOf(extent))
      return keys_[extent] + skip;
  }
  if (behind == by_data_.end() || payloads_[*behind] - wanted >= nr_sectors) return std::nullopt;
  if (payloads_[*behind] >> FASTOCI_EXTENT_BLOB_SHIFT != wanted >> FASTOCI_EXTENT_BLOB_SHIFT) return std::nullopt;
  return keys_[*behind];
}

void FileMap::Add(uint64_t sector, uint64_t nr_sectors, const std::string& path) {
  if (paths_.empty() || paths_.back() != path) paths_.push_back(path);
  runs_.push_back({sector, nr_sectors, static_cast<uint32_t>(paths_.size() - 1)});
}

void FileMap::Sort() {
  std::sort(runs_.begin(), runs_.end(),
            [](const Run& a, const Run& b) { return a.sector < b.sector; });
}

std::string FileMap::Find(uint64_t sector) const {
  auto it = std::upper_bound(runs_.begin(), runs_.end(), sector,
                             [](uint64_t s, const Run& r) { return s < r.sector; });
  if (it == runs_.begin() || sector - std::prev(it)->sector >= std::prev(it)->nr_sectors) return "";
  return paths_[std::prev(it)->path];
}

Result<FileMap> FileMap::Scan(const std::string& root) {
  FileMap map;
  struct stat top;
  if (::stat(root.c_str(), &top) != 0) return ErrnoError(root);
  std::error_code error;
  fs::recursive_directory_iterator it(root, fs::directory_options::skip_permission_denied, error), end;
  std::vector<uint8_t> buffer(sizeof(struct fiemap) + kExtentsAtATime * sizeof(struct fiemap_extent));
  auto* request = reinterpret_cast<struct fiemap*>(buffer.data());
  for (size_t files = 0; !error && it != end && files < kMaxFiles; it.increment(error)) {
    struct stat st;
    if (::lstat(it->path().c_str(), &st) != 0) continue;
    if (S_ISDIR(st.st_mode) && st.st_dev != top.st_dev) it.disable_recursion_pending();
    if (!S_ISREG(st.st_mode) || st.st_dev != top.st_dev || st.st_size == 0) continue;
    files++;
    UniqueFd fd(::open(it->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    const std::string path = it->path().string().substr(root == "/" ? 0 : root.size());
    for (uint64_t at = 0; fd.valid();) {
      std::memset(buffer.data(), 0, buffer.size());
      request->fm_start = at;
      request->fm_length = FIEMAP_MAX_OFFSET - at;
      request->fm_extent_count = kExtentsAtATime;
      if (::ioctl(fd.get(), FS_IOC_FIEMAP, request) != 0 || request->fm_mapped_extents == 0) break;
      bool last = false;
      for (uint32_t i = 0; i < request->fm_mapped_extents; i++) {
        const struct fiemap_extent& e = request->fm_extents[i];
        at = e.fe_logical + e.fe_length;
        last |= (e.fe_flags & FIEMAP_EXTENT_LAST) != 0;
        if (!(e.fe_flags & FIEMAP_EXTENT_UNKNOWN))
          map.Add(e.fe_physical / 512, (e.fe_length + 511) / 512, path);
      }
      if (last) break;
    }
  }
  map.Sort();
  return map;
}

}  // namespace fastoci
