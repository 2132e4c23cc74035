// SPDX-License-Identifier: Apache-2.0
// Skeleton: a layer's tar stream with zeros for the data of its files, but for
// what a FileMapping may copy (see there): all that the conversion needs of the
// tar once its digests are known, and about as large as its headers. Compressed
// with zstd.
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

// What is larger is given up; such a layer is scanned each time.
inline constexpr size_t kMaxSkeletonBytes = 256 << 20;

class SkeletonWriter {
 public:
  static Result<SkeletonWriter> Create();
  SkeletonWriter(SkeletonWriter&&) noexcept;
  SkeletonWriter& operator=(SkeletonWriter&&) noexcept;
  ~SkeletonWriter();

  // The next bytes of the tar begin; they must stay until End().
  void Begin(ByteSpan tar);
  // So many bytes of these, from that offset of the stored data on, are the
  // entry's. What lies outside of them is ignored.
  void OnData(const TarEntry& entry, uint64_t offset, uint64_t bytes);
  Status End();
  // Empty: it became too large.
  Result<Bytes> Finish();

 private:
  struct Context;
  explicit SkeletonWriter(std::unique_ptr<Context> context);
  std::unique_ptr<Context> context_;
};

// Calls sink with the stream, piece by piece. Fails unless there are tar_bytes of
// it.
Status ReadSkeleton(ByteSpan skeleton, uint64_t tar_bytes,
                    const std::function<Status(ByteSpan)>& sink);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_SKELETON_H_
