// SPDX-License-Identifier: Apache-2.0
// Assembly of a layer that somebody else made: the input is an fs.meta, which is
// put on top of itself once more. What comes out, our own reader takes.
#include <sys/mman.h>

#include <algorithm>

#include "base/unique_fd.h"
#include "fuzz/fuzz.h"
#include "image/assemble.h"
#include "image/meta_image.h"
#include "image/meta_layer.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  MetaLayerFiles files;
  files.ext4_fs_meta.assign(data, data + size);
  auto packed = PackMetaLayer(files);
  Require(packed.ok());
  static UniqueFd meta(memfd_create("meta", MFD_CLOEXEC)), out(memfd_create("out", MFD_CLOEXEC));
  Require(ftruncate(meta.get(), static_cast<off_t>(packed->data.size())) == 0);
  Require(ftruncate(out.get(), 0) == 0);
  Require(PwriteFull(meta.get(), packed->data, 0, "meta").ok());
  AssembleInput input;
  for (uint64_t bytes : {4096, 70000})
    input.layers.push_back({meta.get(), packed->digest, {}, bytes, FASTOCI_CODEC_RAW, nullptr, -1});
  input.json_head = "{}";
  AssembleOptions options;
  options.max_output_bytes = 16 << 20;
  if (!Assemble(input, options, out.get()).ok()) return 0;
  auto image = ReadMetaImage(out.get(), static_cast<uint64_t>(lseek(out.get(), 0, SEEK_END)));
  Require(image.ok() && image->blobs.size() == 2);
  return 0;
}
