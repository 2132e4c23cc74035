// SPDX-License-Identifier: Apache-2.0
// LayerConverter: one original layer, as the stream of its blob, becomes a meta
// layer, a native overlaybd layer, or both, in one pass and without a copy of the
// blob. The work is spread over threads, each with a bounded queue before it:
//
//   caller:  blob --> GzipIndexBuilder or ZstdIndexBuilder --> tar stream
//   stage:   tar stream --> sha256, chunk digests
//                  \--> TarReader --> entries --> LayerOrder (FsBuilder)
//                            \--> OverlaybdWriter
//   and one that compresses the windows of a gzip index (WindowDeflater)
//
// The caller verifies the blob's digest, as ImageStore::GetBlob() does, and calls
// Finish() only if it is right.
//
// A layer is scanned even if it is not its turn to be built. What a scan learned can be
// kept and used in place of the blob another time: Replay().
#ifndef FASTOCI_IMAGE_LAYER_CONVERTER_H_
#define FASTOCI_IMAGE_LAYER_CONVERTER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/digest.h"
#include "base/result.h"
#include "codec/gzip_index.h"
#include "codec/tar_reader.h"
#include "codec/zstd_index.h"
#include "image/chunk_digester.h"
#include "image/data_stage.h"
#include "image/layer_order.h"
#include "image/meta_layer.h"
#include "image/overlaybd_writer.h"
#include "image/scan_store.h"
#include "image/skeleton.h"

namespace fastoci {

struct LayerOutput {
  FsType fs_type = FsType::kExt4;
  uint64_t fs_bytes = kDefaultFsBytes;
  bool turbo = true;
  bool scan = false;  // LayerResult::scan is wanted
  std::string overlaybd_dir;  // where native layers get their space; "": none is made
  LsmtFileOptions overlaybd;  // but for virtual_bytes
};

struct LayerResult {
  std::optional<PackedMetaLayer> meta;
  std::optional<PackedOverlaybdLayer> overlaybd;
  uint64_t nr_entries = 0;
  std::string target_media_type;  // of TargetMediaType()
  std::string beyond_turbo;  // why overlaybd cannot read the meta layer; mostly ""
  std::optional<LayerScan> scan;
};

class LayerConverter : private TarSink {
 public:
  // number: the layer's place in order. The blob's first bytes tell the codec, not
  // source.media_type. After an error the converter must not be used any more.
  static Result<std::unique_ptr<LayerConverter>> Create(const LayerSource& source,
                                                        const LayerOutput& output, size_t number,
                                                        LayerOrder* order);
  Status Update(ByteSpan blob);
  // Waits for the layer's turn.
  Result<LayerResult> Finish();
  // The same from a kept scan, without the blob. output must not ask for an overlaybd
  // layer: that needs the data.
  static Result<LayerResult> Replay(const LayerSource& source, const LayerOutput& output,
                                    size_t number, LayerOrder* order, LayerScan scan);

 private:
  LayerConverter(const LayerSource& source, const LayerOutput& output, size_t number,
                 LayerOrder* order);
  Status Begin();
  Status Decode(ByteSpan blob);
  Status OnTar(ByteSpan data);
  Status OnScannedTar(ByteSpan data);
  Result<LayerScan> FinishScan(const MetaLayerFiles& files, const std::string& beyond_turbo);
  Result<LayerResult> Build(MetaLayerFiles files, std::string beyond_turbo);
  Status OnEntry(const TarEntry& entry) override;
  Status OnData(uint64_t offset, ByteSpan data) override;
  Status OnEntryEnd(bool zero_padding) override;
  Result<PackedMetaLayer> PackMeta(const LsmtContent& content, MetaLayerFiles files);

  LayerSource source_;
  LayerOutput output_;
  size_t number_;
  LayerOrder* order_;
  Bytes head_;  // the blob's first bytes, until there are enough to begin
  bool begun_ = false;
  // At most one of them: how the blob is compressed.
  std::unique_ptr<GzipIndexBuilder> gzip_;
  std::unique_ptr<ZstdIndexBuilder> zstd_;
  uint64_t blob_bytes_ = 0;
  // Of the stage's thread, until it has finished:
  Sha256 tar_hash_;
  ChunkDigester chunks_;
  uint64_t data_bytes_ = 0;
  TarReader tar_;
  LayerEntry current_;  // whose data is coming
  LayerQueue queue_;    // entries that are complete, and not given to order_
  std::unique_ptr<OverlaybdWriter> overlaybd_;
  std::optional<SkeletonWriter> skeleton_;  // of a scan that is kept
  DataStage stage_;  // the last member: its thread uses the others
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_LAYER_CONVERTER_H_
