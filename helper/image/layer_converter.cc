// SPDX-License-Identifier: Apache-2.0
#include "image/layer_converter.h"

#include <algorithm>

#include "image/assemble.h"

namespace fastoci {
namespace {

constexpr uint64_t kChunkBytes = 1ULL << FASTOCI_DIGEST_SHIFT;

}  // namespace

void ChunkDigester::Update(ByteSpan data) {
  while (!data.empty()) {
    ByteSpan part = data.first(std::min<uint64_t>(data.size(), kChunkBytes - fill_));
    hash_.Update(part);
    fill_ += part.size();
    data = data.subspan(part.size());
    if (fill_ < kChunkBytes) continue;
    Sha256Digest digest = hash_.Finish();
    digests_.insert(digests_.end(), digest.begin(), digest.end());
    fill_ = 0;
  }
}

Bytes ChunkDigester::Finish() {
  if (fill_ != 0) {
    Sha256Digest digest = hash_.Finish();
    digests_.insert(digests_.end(), digest.begin(), digest.end());
    fill_ = 0;
  }
  return std::move(digests_);
}

Result<std::unique_ptr<LayerConverter>> LayerConverter::Create(const LayerSource& source,
                                                               Ext4Builder* builder) {
  FASTOCI_TRY(fastoci_codec codec, CodecOfMediaType(source.media_type));
  std::unique_ptr<LayerConverter> c(new LayerConverter(source, builder));
  if (codec == FASTOCI_CODEC_GZIP) {
    LayerConverter* raw = c.get();
    FASTOCI_TRY(GzipIndexBuilder gzip, GzipIndexBuilder::Create(
                                           {}, [raw](ByteSpan data) { return raw->OnTar(data); }));
    c->gzip_ = std::make_unique<GzipIndexBuilder>(std::move(gzip));
  }
  builder->BeginLayer();
  return c;
}

Status LayerConverter::Update(ByteSpan blob) {
  blob_hash_.Update(blob);
  blob_bytes_ += blob.size();
  if (blob_bytes_ > source_.bytes) return MismatchError("the blob is longer than promised");
  return gzip_ ? gzip_->Update(blob) : OnTar(blob);
}

Status LayerConverter::OnTar(ByteSpan data) {
  data_bytes_ += data.size();
  if (!source_.diff_id.empty()) tar_hash_.Update(data);
  chunks_.Update(data);
  return tar_.Update(data);
}

Result<PackedMetaLayer> LayerConverter::Finish() {
  std::string digest = DigestString(blob_hash_.Finish());
  if (digest != source_.digest || blob_bytes_ != source_.bytes)
    return MismatchError("the blob has digest " + digest + " and " + std::to_string(blob_bytes_) +
                         " bytes, not what the manifest says");
  MetaLayerFiles files;
  if (gzip_) {
    FASTOCI_TRY(files.gzip_meta, gzip_->Finish());
  }
  FASTOCI_CHECK_OK(tar_.Finish());
  if (!source_.diff_id.empty()) {
    std::string diff_id = DigestString(tar_hash_.Finish());
    if (diff_id != source_.diff_id)
      return MismatchError("the layer unpacks to " + diff_id + ", not to its diff id");
  }
  FASTOCI_TRY(files.ext4_fs_meta, builder_->FinishLayer());
  files.description =
      DescriptionJson({source_.digest, source_.bytes, source_.media_type, data_bytes_});
  files.chunk_digests = chunks_.Finish();
  return PackMetaLayer(files);
}

}  // namespace fastoci
