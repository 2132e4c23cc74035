// SPDX-License-Identifier: Apache-2.0
#include "image/layer_converter.h"

#include <algorithm>

#include "image/blob_codec.h"

namespace fastoci {

LayerConverter::LayerConverter(const LayerSource& source, const LayerOutput& output, size_t number,
                               LayerOrder* order)
    : source_(source),
      output_(output),
      number_(number),
      order_(order),
      tar_(this),
      stage_([this](ByteSpan data) { return OnScannedTar(data); }) {}

Result<std::unique_ptr<LayerConverter>> LayerConverter::Create(const LayerSource& source,
                                                               const LayerOutput& output,
                                                               size_t number, LayerOrder* order) {
  std::unique_ptr<LayerConverter> c(new LayerConverter(source, output, number, order));
  if (!output.overlaybd_dir.empty()) {
    LsmtFileOptions options = output.overlaybd;
    options.virtual_bytes = output.fs_bytes;
    options.pad_index = true;
    FASTOCI_TRY(c->overlaybd_, OverlaybdWriter::Create(output.overlaybd_dir, options));
  }
  if (output.scan && !source.diff_id.empty()) {
    FASTOCI_TRY(c->skeleton_, SkeletonWriter::Create());
  }
  return c;
}

Status LayerConverter::Update(ByteSpan blob) {
  blob_bytes_ += blob.size();
  if (blob_bytes_ > source_.bytes) return MismatchError("the blob is longer than promised");
  if (begun_) return Decode(blob);
  const size_t part = std::min(kBlobMagicBytes - head_.size(), blob.size());
  head_.insert(head_.end(), blob.begin(), blob.begin() + static_cast<ptrdiff_t>(part));
  if (head_.size() < kBlobMagicBytes) return OkStatus();
  FASTOCI_CHECK_OK(Begin());
  return Decode(blob.subspan(part));
}

// The bytes in head_ tell the codec.
Status LayerConverter::Begin() {
  begun_ = true;
  FASTOCI_TRY(fastoci_codec codec, CodecOfBytes(head_));
  source_.media_type = TargetMediaType(codec, source_.media_type);
  auto push = [this](ByteSpan data) { return stage_.Push(data); };
  if (codec == FASTOCI_CODEC_GZIP) {
    FASTOCI_TRY(GzipIndexBuilder gzip, GzipIndexBuilder::Create({.threaded = true}, push));
    gzip_ = std::make_unique<GzipIndexBuilder>(std::move(gzip));
  } else if (codec == FASTOCI_CODEC_ZSTD) {
    FASTOCI_TRY(ZstdIndexBuilder zstd, ZstdIndexBuilder::Create({}, push));
    zstd_ = std::make_unique<ZstdIndexBuilder>(std::move(zstd));
  }
  return Decode(head_);
}

Status LayerConverter::Decode(ByteSpan blob) {
  if (gzip_) return gzip_->Update(blob);
  return zstd_ ? zstd_->Update(blob) : stage_.Push(blob);
}

Status LayerConverter::OnScannedTar(ByteSpan data) {
  if (!source_.diff_id.empty()) tar_hash_.Update(data);
  chunks_.Update(data);
  if (!skeleton_) return OnTar(data);
  skeleton_->Begin(data);
  FASTOCI_CHECK_OK(OnTar(data));
  return skeleton_->End();
}

Status LayerConverter::OnTar(ByteSpan data) {
  data_bytes_ += data.size();
  FASTOCI_CHECK_OK(tar_.Update(data));
  return queue_.empty() ? OkStatus() : order_->Feed(number_, &queue_);
}

Status LayerConverter::OnEntry(const TarEntry& entry) {
  bool file = entry.type == TarType::kFile;
  current_ = {entry, {}, true};
  if (file) current_.mapping.emplace(entry);
  return file && overlaybd_ ? overlaybd_->Begin(entry.data_offset / kSectorBytes) : OkStatus();
}

Status LayerConverter::OnData(uint64_t offset, ByteSpan data) {
  if (overlaybd_) FASTOCI_CHECK_OK(overlaybd_->Append(data));
  if (skeleton_) skeleton_->OnData(current_.tar, offset, data.size());
  return current_.mapping->OnData(offset, data);
}

Status LayerConverter::OnEntryEnd(bool zero_padding) {
  current_.zero_padding = zero_padding;
  queue_.Push(std::move(current_));
  return OkStatus();
}

Result<PackedMetaLayer> LayerConverter::PackMeta(const LsmtContent& content, MetaLayerFiles files) {
  FASTOCI_TRY(Bytes fs_meta, MakeFsMeta(content, output_.fs_bytes));
  (output_.fs_type == FsType::kErofs ? files.erofs_fs_meta : files.ext4_fs_meta) = std::move(fs_meta);
  files.description =
      DescriptionJson({source_.digest, source_.bytes, source_.media_type, data_bytes_});
  return PackMetaLayer(files);
}

Result<LayerResult> LayerConverter::Finish() {
  if (blob_bytes_ != source_.bytes)
    return MismatchError("the blob has " + std::to_string(blob_bytes_) + " bytes, not " +
                         std::to_string(source_.bytes) + " as the manifest says");
  if (!begun_) FASTOCI_CHECK_OK(Begin());
  MetaLayerFiles files;
  std::string beyond_turbo;
  if (gzip_) {
    FASTOCI_TRY(files.gzip_meta, gzip_->Finish());
    if (gzip_->nr_members() > 1)
      beyond_turbo = "has " + std::to_string(gzip_->nr_members()) +
                     " gzip members, which gzip.meta cannot describe";
  } else if (zstd_) {
    FASTOCI_TRY(files.zstd_index, zstd_->Finish());
    beyond_turbo = "is compressed with zstd, which turboOCI does not know";
  }
  FASTOCI_CHECK_OK(stage_.Finish());
  if (!source_.diff_id.empty()) {
    std::string diff_id = DigestString(tar_hash_.Finish());
    if (diff_id != source_.diff_id)
      return MismatchError("the layer unpacks to " + diff_id + ", not to its diff id");
  }
  files.chunk_digests = chunks_.Finish();
  std::optional<LayerScan> scan;
  if (skeleton_) {
    FASTOCI_TRY(scan, FinishScan(files, beyond_turbo));
  }
  FASTOCI_TRY(LayerResult result, Build(std::move(files), std::move(beyond_turbo)));
  if (scan && !scan->skeleton.empty()) result.scan = std::move(scan);
  return result;
}

Result<LayerScan> LayerConverter::FinishScan(const MetaLayerFiles& files,
                                             const std::string& beyond_turbo) {
  FASTOCI_TRY(Bytes skeleton, skeleton_->Finish());
  return LayerScan{.tar_bytes = data_bytes_,
                   .diff_id = source_.diff_id,
                   .target_media_type = source_.media_type,
                   .beyond_turbo = beyond_turbo,
                   .gzip_meta = files.gzip_meta,
                   .zstd_index = files.zstd_index,
                   .chunk_digests = files.chunk_digests,
                   .skeleton = std::move(skeleton)};
}

// The whole tar was read. The file system gets the layer when its turn comes.
Result<LayerResult> LayerConverter::Build(MetaLayerFiles files, std::string beyond_turbo) {
  FASTOCI_CHECK_OK(tar_.Finish());
  FASTOCI_TRY(LsmtContent content, order_->Finish(number_, &queue_));
  LayerResult result;
  result.nr_entries = tar_.nr_entries();
  result.target_media_type = source_.media_type;
  result.beyond_turbo = std::move(beyond_turbo);
  if (overlaybd_) {
    FASTOCI_TRY(result.overlaybd, overlaybd_->Finish(content));
  }
  if (output_.turbo) {
    files.own_names = !result.beyond_turbo.empty();
    FASTOCI_TRY(result.meta, PackMeta(content, std::move(files)));
  }
  return result;
}

Result<LayerResult> LayerConverter::Replay(const LayerSource& source, const LayerOutput& output,
                                           size_t number, LayerOrder* order, LayerScan scan) {
  LayerConverter c(source, output, number, order);
  c.source_.media_type = scan.target_media_type;
  FASTOCI_CHECK_OK(ReadSkeleton(scan.skeleton, scan.tar_bytes,
                                [&c](ByteSpan data) { return c.OnTar(data); }));
  MetaLayerFiles files;
  files.gzip_meta = std::move(scan.gzip_meta);
  files.zstd_index = std::move(scan.zstd_index);
  files.chunk_digests = std::move(scan.chunk_digests);
  return c.Build(std::move(files), std::move(scan.beyond_turbo));
}

}  // namespace fastoci
