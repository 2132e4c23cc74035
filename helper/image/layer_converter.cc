// SPDX-License-Identifier: Apache-2.0
#include "image/layer_converter.h"

#include "image/assemble.h"

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
  FASTOCI_TRY(fastoci_codec codec, CodecOfMediaType(source.media_type));
  std::unique_ptr<LayerConverter> c(new LayerConverter(source, output, number, order));
  auto push = [raw = c.get()](ByteSpan data) { return raw->stage_.Push(data); };
  if (codec == FASTOCI_CODEC_GZIP) {
    FASTOCI_TRY(GzipIndexBuilder gzip, GzipIndexBuilder::Create({}, push));
    c->gzip_ = std::make_unique<GzipIndexBuilder>(std::move(gzip));
  } else if (codec == FASTOCI_CODEC_ZSTD) {
    FASTOCI_TRY(ZstdIndexBuilder zstd, ZstdIndexBuilder::Create({}, push));
    c->zstd_ = std::make_unique<ZstdIndexBuilder>(std::move(zstd));
  }
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
  blob_hash_.Update(blob);
  blob_bytes_ += blob.size();
  if (blob_bytes_ > source_.bytes) return MismatchError("the blob is longer than promised");
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
  return entries_.empty() ? OkStatus() : order_->Feed(number_, &entries_);
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
  entries_.push_back(std::move(current_));
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
  std::string digest = DigestString(blob_hash_.Finish());
  if (digest != source_.digest || blob_bytes_ != source_.bytes)
    return MismatchError("the blob has digest " + digest + " and " + std::to_string(blob_bytes_) +
                         " bytes, not what the manifest says");
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
                   .beyond_turbo = beyond_turbo,
                   .gzip_meta = files.gzip_meta,
                   .zstd_index = files.zstd_index,
                   .chunk_digests = files.chunk_digests,
                   .skeleton = std::move(skeleton)};
}

// The tar has been seen: the file system gets the layer, in its turn.
Result<LayerResult> LayerConverter::Build(MetaLayerFiles files, std::string beyond_turbo) {
  FASTOCI_CHECK_OK(tar_.Finish());
  FASTOCI_TRY(LsmtContent content, order_->Finish(number_, &entries_));
  LayerResult result;
  result.nr_entries = tar_.nr_entries();
  result.beyond_turbo = std::move(beyond_turbo);
  if (overlaybd_) {
    FASTOCI_TRY(result.overlaybd, overlaybd_->Finish(content));
  }
  if (output_.turbo) {
    FASTOCI_TRY(result.meta, PackMeta(content, std::move(files)));
  }
  return result;
}

Result<LayerResult> LayerConverter::Replay(const LayerSource& source, const LayerOutput& output,
                                           size_t number, LayerOrder* order, LayerScan scan) {
  LayerConverter c(source, output, number, order);
  FASTOCI_CHECK_OK(ReadSkeleton(scan.skeleton, scan.tar_bytes,
                                [&c](ByteSpan data) { return c.OnTar(data); }));
  MetaLayerFiles files;
  files.gzip_meta = std::move(scan.gzip_meta);
  files.zstd_index = std::move(scan.zstd_index);
  files.chunk_digests = std::move(scan.chunk_digests);
  return c.Build(std::move(files), std::move(scan.beyond_turbo));
}

}  // namespace fastoci
