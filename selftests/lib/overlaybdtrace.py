#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""overlaybdtrace.py FILE LAYER:OFFSET:BYTES...: a trace of these reads, as overlaybd records it. Layers: bottom first, from 0;
offsets: in the layer's file."""
import struct, sys
from crc32c import crc32c_raw

reads = [map(int, read.split(":")) for read in sys.argv[2:]]
records = b"".join(struct.pack("<c3xIQQ", b"R", layer, size, offset) for layer, offset, size in reads)
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<I4xQI4x", 0xC2EF1820, len(records), crc32c_raw(records)) + records)
