// SPDX-License-Identifier: Apache-2.0
// Content of ext4 directories. A directory of one block is a plain list. A larger one is
// a hash tree: block 0 is its root, each leaf has a range of hashes, and with more than
// some 500 leaves there is a level of index nodes. Blocks are only added to a directory,
// and a leaf keeps its range until it is split. So a layer that adds an entry rewrites one
// leaf. What a leaf holds depends on its range and on the directory's entries, not on the
// order in which they came.
#ifndef FASTOCI_IMAGE_EXT4_DIR_H_
#define FASTOCI_IMAGE_EXT4_DIR_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "image/memory_device.h"

namespace fastoci {

struct DirEntry {
  std::string_view name;
  uint32_t ino = 0;
  uint32_t hash = 0;
  uint8_t file_type = 0;  // EXT2_FT_*
};

// ext4's hash of a name (half MD4, unsigned); seed: the superblock's.
uint32_t DirHash(std::string_view name, const uint32_t* seed);

class DirLayout {
 public:
  bool indexed() const { return !leaves_.empty(); }
  size_t nr_blocks() const { return nr_blocks_; }

  // The blocks that changed or may have, with their number in the directory.
  using Blocks = std::vector<std::pair<uint32_t, MemoryDevice::Block>>;
  Result<Blocks> Build(uint32_t self, uint32_t parent, std::vector<DirEntry> entries);

 private:
  struct Leaf {
    uint32_t hash = 0;      // of the first entry that may be in it
    bool continued = false; // that hash is in the leaf before, too
    uint32_t logical = 0;
  };
  struct Part {
    Leaf leaf;
    size_t begin = 0, end = 0;  // of the sorted entries
  };
  Result<std::vector<Part>> Distribute(const std::vector<DirEntry>& entries);

  std::vector<Leaf> leaves_;
  std::vector<uint32_t> nodes_;  // logical blocks of index nodes
  uint32_t nr_blocks_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_EXT4_DIR_H_
