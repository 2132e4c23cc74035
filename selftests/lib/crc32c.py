# SPDX-License-Identifier: Apache-2.0
"""crc32c.py - the CRC-32C (Castagnoli) of bytes, in Python alone."""

TABLE = []
for i in range(256):
    c = i
    for _ in range(8):
        c = c >> 1 ^ 0x82F63B78 if c & 1 else c >> 1
    TABLE.append(c)


def crc32c_raw(data, crc=0):
    """The register after data, without the inversions at begin and end."""
    for b in data:
        crc = crc >> 8 ^ TABLE[(crc ^ b) & 255]
    return crc


def crc32c(data):
    return crc32c_raw(data, 0xFFFFFFFF) ^ 0xFFFFFFFF
