// SPDX-License-Identifier: Apache-2.0
// DeflateDecoder inflates a raw deflate stream (hostile bytes). It also reports where
// blocks end, and which earlier bytes the stream refers to; no library does that at this
// speed. The gzip index is made of both in one pass. GzipStream decodes for readers.
//
// The decoder holds no window. It writes to a buffer from *fill on, and the last 32
// KiB of output stand before that place. It stops only between symbols. The caller
// gives the input that was not used again, with more behind it.
#ifndef FASTOCI_CODEC_DEFLATE_DECODER_H_
#define FASTOCI_CODEC_DEFLATE_DECODER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"

namespace fastoci {

// A copy within the output: length bytes from `from`, both places in the buffer.
struct DeflateCopy {
  uint32_t from, length;
};

class DeflateDecoder {
 public:
  // Output that must fit behind *fill for decoding to go on.
  static constexpr size_t kOutputMargin = 288;
  enum class Event { kNeedInput, kOutputFull, kBlockEnd, kStreamEnd };

  struct Output {
    std::span<uint8_t> buffer;
    size_t fill = 0;
    size_t first = 0;        // bytes before this place are not output of this stream
    size_t watch_below = 0;  // copies from before this place are added to `copies`
    std::vector<DeflateCopy>* copies = nullptr;
  };

  // A new stream begins with the next byte.
  void Restart();
  // Takes from *in what it uses. last: nothing follows *in, so needing more is an error.
  // The last block of the stream gives kStreamEnd, the others give kBlockEnd.
  Result<Event> Decode(ByteSpan* in, bool last, Output* out);
  // Low bits of the stream that are still in the byte before *in: its upper ones.
  unsigned bits() const { return nr_bits_; }

 private:
  static constexpr unsigned kLiteralRoot = 11, kDistanceRoot = 9;
  // A root table, and for each of its entries that more than one longer code
  // shares (143 and 15 at most) a table of what is left of 15 bits.
  using LiteralTable = std::array<uint32_t, (1 << kLiteralRoot) + 144 * 16>;
  using DistanceTable = std::array<uint32_t, (1 << kDistanceRoot) + 16 * 64>;
  enum class State { kHeader, kStored, kSymbols };
  struct Bits;

  Result<bool> ReadHeader(Bits* bits);
  Result<bool> ReadDynamic(Bits* bits);
  Result<bool> OneSymbol(Bits* bits, Output* out, bool* block_end);
  Status FastSymbols(Bits* bits, Output* out, bool* block_end);
  void UseFixed();

  State state_ = State::kHeader;
  bool last_block_ = false;
  bool fixed_ = false;      // the tables are those of fixed codes
  uint64_t stored_left_ = 0;
  uint64_t bit_buffer_ = 0;  // less than a byte between calls
  unsigned nr_bits_ = 0;
  LiteralTable literals_{};
  DistanceTable distances_{};
};

}  // namespace fastoci

#endif  // FASTOCI_CODEC_DEFLATE_DECODER_H_
