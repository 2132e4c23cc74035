// SPDX-License-Identifier: Apache-2.0
// A skeleton is a layer's tar stream with zeros in the place of the files' data. Only
// the data that a FileMapping may copy is kept. Once the digests are known, the
// conversion needs nothing else of the tar. A skeleton is compressed with zstd, and
// then about as large as the tar's headers.
#ifndef FASTOCI_IMAGE_SKELETON_H_
#define FASTOCI_IMAGE_SKELETON_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "codec/tar_reader.h"

namespace fastoci {

// A larger one is given up, and its layer is scanned each time.
inline constexpr size_t kMaxSkeletonBytes = 256 << 20;

class SkeletonWriter {
 public:
  static Result<SkeletonWriter> Create();
  SkeletonWriter(SkeletonWriter&&) noexcept;
  SkeletonWriter& operator=(SkeletonWriter&&) noexcept;
  ~SkeletonWriter();

  // The next bytes of the tar. They must not change until End().
  void Begin(ByteSpan tar);
  // Says that `bytes` bytes from `offset` of the entry's stored data on are data. Those
  // outside of what Begin() was given are ignored.
  void OnData(const TarEntry& entry, uint64_t offset, uint64_t bytes);
  Status End();
  // Returns nothing if the skeleton became too large.
  Result<Bytes> Finish();

 private:
  struct Context;
  explicit SkeletonWriter(std::unique_ptr<Context> context);
  std::unique_ptr<Context> context_;
};

// Calls sink with the stream, piece by piece. Fails if the stream has not tar_bytes
// bytes.
Status ReadSkeleton(ByteSpan skeleton, uint64_t tar_bytes,
                    const std::function<Status(ByteSpan)>& sink);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_SKELETON_H_
