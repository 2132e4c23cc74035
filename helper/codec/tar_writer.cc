// SPDX-License-Identifier: Apache-2.0
#include "codec/tar_writer.h"

#include <cstdio>

#include "codec/tar_reader.h"

namespace fastoci {

Bytes TarHeader(const char* name, uint64_t bytes, char type, unsigned mode) {
  char h[kTarBlockBytes] = {};
  std::snprintf(h, 100, "%s", name);
  std::snprintf(h + 100, 8, "%07o", mode);
  std::snprintf(h + 108, 8, "%07o", 0);
  std::snprintf(h + 116, 8, "%07o", 0);
  std::snprintf(h + 124, 12, "%011llo", static_cast<unsigned long long>(bytes));
  std::snprintf(h + 136, 12, "%011o", 0);
  h[156] = type;
  std::snprintf(h + 257, 6, "ustar");
  h[263] = h[264] = '0';
  unsigned sum = 8 * ' ';
  for (char c : h) sum += static_cast<uint8_t>(c);
  std::snprintf(h + 148, 8, "%06o", sum);
  h[155] = ' ';
  return Bytes(h, h + sizeof(h));
}

}  // namespace fastoci
