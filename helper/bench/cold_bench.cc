// SPDX-License-Identifier: Apache-2.0
// cold_bench kernel SOCKET: the kernel's part of selftests/bench-cold. It keeps caches
// and images for the helper that connects to SOCKET, plays reads and measures how long
// they wait. One command a line on standard input, one line of JSON each as the answer:
//   ready                   as soon as a helper can connect
//   cache DEVICE            a formatted cache device (after the helper has formatted it)
//   image DEVICE            an assembled meta image on a block device
//   registered              waits until a helper has registered
//   misses SPACE CHUNK...   all at once; "ms" from the first to the last of them
//   each SPACE CHUNK...     one after another; "ms" of each
//   ask SPACE CHUNK...      does not wait
//   sequential SPACE FIRST COUNT
//                           a reader with the page cache's readahead of 128 KiB; "ms" until the
//                           last chunk, "quarter_ms" until the end of the first quarter of them
//   all SPACE...            until each of their chunks is there
//   present SPACE           how many are
// cold_bench decode OUT: floors. Inflates gzip from standard input, hashes each 64 KiB
// and writes them to OUT with O_DIRECT.
// cold_bench spans URL META BLOB CHUNK...: floors. Fetches the range of each chunk from
// the span's beginning, on one connection, and inflates up to the chunk's end; "ms" of each.
#include <curl/curl.h>
#include <fcntl.h>
#include <isa-l/igzip_lib.h>
#include <sys/stat.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/digest.h"
#include "base/kernel_dev.h"
#include "bench/stand_in_kernel.h"
#include "codec/gzip_index.h"
#include "image/meta_image.h"
#include "cache/cache_device.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr auto kPatience = std::chrono::minutes(5);
constexpr uint32_t kReadaheadChunks = 2;  // 128 KiB, the kernel's default
constexpr size_t kPiece = 64 << 10;
constexpr size_t kWriteBytes = 1 << 20;

double Ms(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

Result<uint32_t> DeviceNumber(int fd, const std::string& path) {
  struct stat st;
  if (::fstat(fd, &st) != 0) return ErrnoError(path);
  if (!S_ISBLK(st.st_mode)) return InvalidError(path + ": not a block device");
  return KernelDev(st.st_rdev);
}

Result<MetaImage> ReadImage(const std::string& path, int* fd) {
  *fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (*fd < 0) return ErrnoError(path);
  const off_t size = ::lseek(*fd, 0, SEEK_END);
  return ReadMetaImage(*fd, static_cast<uint64_t>(size));
}

class Player {
 public:
  explicit Player(StandInKernel* kernel) : kernel_(kernel) {}

  Result<Json> Do(const std::string& op, std::istringstream* args) {
    if (op == "cache") return Cache(args);
    if (op == "image") return Image(args);
    if (op == "ready") return Json::object();
    if (op == "registered") return Registered();
    uint32_t space = 0;
    *args >> space;
    if (op == "sequential") return Sequential(space, args);
    std::vector<uint32_t> rest;
    for (uint32_t n; *args >> n;) rest.push_back(n);
    if (op == "misses") return Misses(space, rest);
    if (op == "each") return Each(space, rest);
    if (op == "ask") {
      kernel_->Ask(space, rest, FASTOCI_CLASS_DEMAND);
      return Json::object();
    }
    if (op == "present") return Json{{"present", kernel_->CountPresent(space)}};
    if (op == "all") {
      rest.insert(rest.begin(), space);
      return All(rest);
    }
    return InvalidError("unknown command " + op);
  }

 private:
  Result<Json> Cache(std::istringstream* args) {
    std::string path;
    *args >> path;
    FASTOCI_TRY(auto device, CacheDevice::Open(path));
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    FASTOCI_TRY(uint32_t dev, DeviceNumber(fd.get(), path));
    const CacheGeometry& g = device->geometry();
    cache_ = kernel_->AddCache(dev, g.uuid, g.chunk_shift, g.nr_slots);
    return Json{{"slots", g.nr_slots}, {"chunk_bytes", 1U << g.chunk_shift}};
  }

  Result<Json> Image(std::istringstream* args) {
    std::string path;
    *args >> path;
    int raw = -1;
    auto meta = ReadImage(path, &raw);
    UniqueFd fd(raw);
    if (!meta.ok()) return meta.error();
    FASTOCI_TRY(uint32_t dev, DeviceNumber(fd.get(), path));
    std::vector<StandInKernel::SpaceSpec> specs;
    for (const BlobInfo& b : meta->blobs) specs.push_back({b.data_space_id, b.data_bytes});
    const auto numbers = kernel_->AddImage(cache_, dev, meta->image_id, specs);
    Json spaces = Json::array();
    for (size_t i = 0; i < meta->blobs.size(); i++) {
      const BlobInfo& b = meta->blobs[i];
      Json span_chunks = Json::array(), span_offsets = Json::array();
      for (const auto& s : b.spans) {
        span_chunks.push_back(s.data_offset / kPiece);
        span_offsets.push_back(s.blob_offset);
      }
      spaces.push_back({{"space", numbers[i]},
                        {"digest", DigestString(b.blob_digest)},
                        {"data_bytes", b.data_bytes},
                        {"blob_bytes", b.blob_bytes},
                        {"chunks", (b.data_bytes - 1) / kPiece + 1},
                        {"span_chunks", span_chunks},
                        {"span_offsets", span_offsets}});
    }
    return Json{{"image_id", HexEncode(meta->image_id)}, {"spaces", spaces}};
  }

  Result<Json> Registered() {
    for (const auto end = Clock::now() + kPatience; Clock::now() < end;) {
      if (kernel_->registered()) return Json::object();
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return Error{ErrorKind::kUnavailable, ETIMEDOUT, "no helper registers"};
  }

  Status Wait(uint32_t space, uint32_t chunk) {
    const int err = kernel_->Wait(space, chunk, Clock::now() + kPatience);
    if (err == 0) return OkStatus();
    return ErrnoError("chunk " + std::to_string(chunk) + " of space " + std::to_string(space), err);
  }

  Result<Json> Misses(uint32_t space, const std::vector<uint32_t>& chunks) {
    const auto begin = Clock::now();
    kernel_->Ask(space, chunks, FASTOCI_CLASS_DEMAND);
    for (uint32_t chunk : chunks) FASTOCI_CHECK_OK(Wait(space, chunk));
    return Json{{"ms", Ms(Clock::now() - begin)}};
  }

  Result<Json> Each(uint32_t space, const std::vector<uint32_t>& chunks) {
    Json all = Json::array();
    for (uint32_t chunk : chunks) {
      FASTOCI_TRY(Json one, Misses(space, {chunk}));
      all.push_back(one["ms"]);
    }
    return Json{{"ms", all}};
  }

  Result<Json> Sequential(uint32_t space, std::istringstream* args) {
    uint32_t first = 0, count = 0;
    *args >> first >> count;
    const auto begin = Clock::now();
    double quarter_ms = 0;
    for (uint32_t chunk = first; chunk < first + count; chunk++) {
      if (chunk == first + count / 4) quarter_ms = Ms(Clock::now() - begin);
      kernel_->Ask(space, {{chunk}}, FASTOCI_CLASS_DEMAND);
      std::vector<uint32_t> ahead;
      for (uint32_t i = 1; i < kReadaheadChunks && chunk + i < first + count; i++)
        ahead.push_back(chunk + i);
      kernel_->Ask(space, ahead, FASTOCI_CLASS_MAYBE);
      FASTOCI_CHECK_OK(Wait(space, chunk));
    }
    return Json{{"ms", Ms(Clock::now() - begin)}, {"quarter_ms", quarter_ms}};
  }

  Result<Json> All(const std::vector<uint32_t>& spaces) {
    const auto begin = Clock::now();
    for (uint32_t space : spaces)
      if (!kernel_->WaitForAll(space, begin + 4 * kPatience))
        return Error{ErrorKind::kUnavailable, ETIMEDOUT, "not all chunks came"};
    return Json{{"ms", Ms(Clock::now() - begin)}};
  }

  StandInKernel* const kernel_;
  uint32_t cache_ = 0;
};

int Play(const std::string& path) {
  auto kernel = StandInKernel::Listen(path);
  if (!kernel.ok()) {
    std::cerr << kernel.error().message << "\n";
    return 1;
  }
  Player player(kernel->get());
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream args(line);
    std::string op;
    args >> op;
    auto answer = player.Do(op, &args);
    std::cout << (answer.ok() ? *answer : Json{{"error", answer.error().message}}).dump() << std::endl;
  }
  return 0;
}

// ---- floors ----

Result<uint64_t> Decode(const std::string& out_path) {
  UniqueFd out(::open(out_path.c_str(), O_WRONLY | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
  if (!out.valid()) return ErrnoError(out_path);
  AlignedBuffer buffer(kWriteBytes);
  Bytes in(kPiece);
  inflate_state state;
  isal_inflate_init(&state);
  state.crc_flag = ISAL_GZIP;
  uint64_t total = 0;
  size_t fill = 0;
  auto flush = [&]() -> Status {
    for (size_t at = 0; at < fill; at += kPiece)
      (void)Sha256::Of({buffer.data() + at, std::min(kPiece, fill - at)});
    const size_t padded = (fill + 4095) / 4096 * 4096;
    FASTOCI_CHECK_OK(PwriteFull(out.get(), {buffer.data(), padded}, total, out_path));
    total += fill;
    fill = 0;
    return OkStatus();
  };
  for (ssize_t n; (n = ::read(0, in.data(), in.size())) != 0;) {
    if (n < 0) return ErrnoError("standard input");
    state.next_in = in.data();
    state.avail_in = static_cast<uint32_t>(n);
    do {
      state.next_out = buffer.data() + fill;
      state.avail_out = static_cast<uint32_t>(kWriteBytes - fill);
      const int rc = isal_inflate(&state);
      if (rc != ISAL_DECOMP_OK) return InvalidError("isal_inflate: " + std::to_string(rc));
      fill = kWriteBytes - state.avail_out;
      if (fill == kWriteBytes) FASTOCI_CHECK_OK(flush());
      if (state.block_state == ISAL_BLOCK_FINISH) break;
    } while (state.avail_in > 0 || state.avail_out == 0);
  }
  FASTOCI_CHECK_OK(flush());
  return total;
}

size_t Append(char* data, size_t size, size_t n, void* to) {
  auto* bytes = static_cast<Bytes*>(to);
  bytes->insert(bytes->end(), data, data + size * n);
  return size * n;
}

Result<Json> Spans(const std::string& url, const std::string& meta_path, size_t blob_no,
                   const std::vector<uint32_t>& chunks) {
  int raw = -1;
  auto meta = ReadImage(meta_path, &raw);
  UniqueFd fd(raw);
  if (!meta.ok()) return meta.error();
  const BlobInfo& blob = meta->blobs.at(blob_no);
  FASTOCI_TRY(GzipIndex index, GzipIndex::Parse(blob.index));
  std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), curl_easy_cleanup);
  Bytes body, data(kPiece);
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, Append);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &body);
  Json all = Json::array();
  for (uint32_t chunk : chunks) {
    const auto begin = Clock::now();
    const uint64_t from = uint64_t{chunk} * kPiece;
    const uint64_t until = std::min<uint64_t>(from + kPiece, blob.data_bytes);
    const size_t first = index.FindEntry(from);
    // Up to the entry after the chunk: where in between its last byte is, no index tells.
    size_t last = index.FindEntry(until - 1) + 1;
    const uint64_t end = last < index.entries().size() ? index.entries()[last].compressed_offset
                                                       : blob.blob_bytes;
    const std::string range =
        std::to_string(index.entries()[first].blob_offset()) + "-" + std::to_string(end - 1);
    body.clear();
    curl_easy_setopt(curl.get(), CURLOPT_RANGE, range.c_str());
    if (CURLcode rc = curl_easy_perform(curl.get()); rc != CURLE_OK)
      return InvalidError(url + ": " + curl_easy_strerror(rc));
    FASTOCI_TRY(GzipStream stream, GzipStream::Open(index, first));
    ByteSpan in = body;
    for (uint64_t at = index.entries()[first].data_offset; at < until;) {
      const size_t want = std::min<uint64_t>(kPiece, until - at);
      FASTOCI_TRY(auto progress, stream.Decode(in, {data.data(), want}));
      if (progress.produced == 0 && progress.consumed == 0) return InvalidError("the range ends early");
      at += progress.produced;
      in = in.subspan(progress.consumed);
    }
    all.push_back(Ms(Clock::now() - begin));
  }
  return Json{{"ms", all}};
}

template <typename T>
int Finish(const Result<T>& result) {
  if (result.ok()) {
    std::cout << Json(*result).dump() << std::endl;
    return 0;
  }
  std::cerr << "cold_bench: " << result.error().message << "\n";
  return 1;
}

int Main(const std::vector<std::string>& args) {
  if (args.size() == 2 && args[0] == "kernel") return Play(args[1]);
  if (args.size() == 2 && args[0] == "decode") return Finish(Decode(args[1]));
  if (args.size() > 4 && args[0] == "spans") {
    std::vector<uint32_t> chunks;
    for (size_t i = 4; i < args.size(); i++) chunks.push_back(static_cast<uint32_t>(std::stoul(args[i])));
    return Finish(Spans(args[1], args[2], std::stoul(args[3]), chunks));
  }
  std::cerr << "usage: see the beginning of helper/bench/cold_bench.cc; selftests/bench-cold runs it\n";
  return 2;
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) { return fastoci::Main({argv + 1, argv + argc}); }
