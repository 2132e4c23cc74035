// SPDX-License-Identifier: Apache-2.0
#include "image/skeleton.h"

#include <zstd.h>

#include <algorithm>

namespace fastoci {
namespace {

constexpr size_t kPieceBytes = 256 << 10;
constexpr int kLevel = 3;

Error ZstdError(const char* what, size_t code) {
  return {ErrorKind::kInternal, EIO, std::string(what) + ": " + ZSTD_getErrorName(code)};
}

}  // namespace

struct SkeletonWriter::Context {
  ~Context() { ZSTD_freeCCtx(zstd); }
  ZSTD_CCtx* zstd = ZSTD_createCCtx();
  Bytes out, piece;
  uint64_t offset = 0;  // of piece in the stream
  bool given_up = false;

  Status Compress(ByteSpan data, ZSTD_EndDirective end) {
    ZSTD_inBuffer in{data.data(), data.size(), 0};
    Bytes buffer(ZSTD_CStreamOutSize());
    size_t left = 0;
    do {
      ZSTD_outBuffer o{buffer.data(), buffer.size(), 0};
      left = ZSTD_compressStream2(zstd, &o, &in, end);
      if (ZSTD_isError(left)) return ZstdError("skeleton", left);
      out.insert(out.end(), buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(o.pos));
    } while (in.pos < in.size || (end == ZSTD_e_end && left != 0));
    if (out.size() > kMaxSkeletonBytes) {
      given_up = true;
      out = Bytes();
    }
    return OkStatus();
  }
};

SkeletonWriter::SkeletonWriter(std::unique_ptr<Context> context) : context_(std::move(context)) {}
SkeletonWriter::SkeletonWriter(SkeletonWriter&&) noexcept = default;
SkeletonWriter& SkeletonWriter::operator=(SkeletonWriter&&) noexcept = default;
SkeletonWriter::~SkeletonWriter() = default;

Result<SkeletonWriter> SkeletonWriter::Create() {
  auto context = std::make_unique<Context>();
  if (!context->zstd) return ErrnoError("skeleton", ENOMEM);
  size_t set = ZSTD_CCtx_setParameter(context->zstd, ZSTD_c_compressionLevel, kLevel);
  if (ZSTD_isError(set)) return ZstdError("skeleton", set);
  return SkeletonWriter(std::move(context));
}

void SkeletonWriter::Begin(ByteSpan tar) {
  if (!context_->given_up) context_->piece.assign(tar.begin(), tar.end());
}

void SkeletonWriter::OnData(const TarEntry& entry, uint64_t offset, uint64_t bytes) {
  Context& c = *context_;
  if (entry.sparse || c.given_up) return;
  // A last sector that is not complete is kept, because it may have to be copied.
  const uint64_t whole = entry.data_bytes / kTarBlockBytes * kTarBlockBytes;
  const uint64_t begin = std::max(entry.data_offset + offset, c.offset);
  const uint64_t end = std::min(entry.data_offset + std::min(offset + bytes, whole),
                                c.offset + c.piece.size());
  if (begin >= end) return;
  std::fill_n(c.piece.begin() + static_cast<ptrdiff_t>(begin - c.offset), end - begin, 0);
}

Status SkeletonWriter::End() {
  if (context_->given_up) return OkStatus();
  context_->offset += context_->piece.size();
  return context_->Compress(context_->piece, ZSTD_e_continue);
}

Result<Bytes> SkeletonWriter::Finish() {
  if (!context_->given_up) FASTOCI_CHECK_OK(context_->Compress({}, ZSTD_e_end));
  return std::move(context_->out);
}

Status ReadSkeleton(ByteSpan skeleton, uint64_t tar_bytes,
                    const std::function<Status(ByteSpan)>& sink) {
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> zstd(ZSTD_createDCtx(), &ZSTD_freeDCtx);
  if (!zstd) return ErrnoError("skeleton", ENOMEM);
  ZSTD_inBuffer in{skeleton.data(), skeleton.size(), 0};
  Bytes piece(kPieceBytes);
  uint64_t done = 0;
  for (size_t left = 1; left != 0;) {
    ZSTD_outBuffer out{piece.data(), piece.size(), 0};
    left = ZSTD_decompressStream(zstd.get(), &out, &in);
    if (ZSTD_isError(left)) return ZstdError("skeleton", left);
    done += out.pos;
    if (done > tar_bytes || (out.pos == 0 && left != 0 && in.pos == in.size))
      return MismatchError("skeleton: not what its record says");
    FASTOCI_CHECK_OK(sink(ByteSpan(piece).first(out.pos)));
  }
  return done == tar_bytes ? OkStatus() : Status(MismatchError("skeleton: too short"));
}

}  // namespace fastoci
