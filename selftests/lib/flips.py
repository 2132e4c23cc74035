#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""flips.py META LAYER META_DEV CACHE_DEV LOG FASTOCI FLIPS SEED: flipped bits in an assembled meta image.

META is the image of one layer, LAYER (tar.gz). In each of its parts one bit after another is flipped, FLIPS in all, with
the checksums left wrong or made right again, so that only what checks content can notice. Never may a wrong byte of a file
be read: the device is refused, or reads are right or errors, and the helper, which runs, tells in LOG why. The helper must
drop its cache with the last image. Prints KTAP.

Metadata, and extents with right checksums, are left out: whoever writes those says what the device is, and it is the
sha256 of the whole image that guards them (selftests/reboot).
"""
import gzip, json, mmap, os, random, struct, subprocess, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ktap import check, end
from metaimage import BLOB, META as METADATA, REGIONS, crc32c, with_crc

REGION_AT = 88
MAX_ERRORS = 3  # per extent: each waits for a deadline where the helper knows nothing of the image


class Image:
    def __init__(self, data):
        self.data = data
        self.regions = {name: struct.unpack_from("<QQ", data, REGION_AT + 24 * i) for i, name in enumerate(REGIONS)}
        blobs, helper = self.regions["blobs"][0], self.regions["helper"][0]
        spans, = struct.unpack_from("<I", data, blobs + 84)
        spans_at, index_at, index, digests_at = struct.unpack_from("<QQQQ", data, blobs + 88)
        digests, = struct.unpack_from("<I", data, blobs + 120)
        self.parts = {"span table": ("helper", helper + spans_at, 16 * spans), "gzip index": ("helper", helper + index_at, index),
                      "chunk digests": ("helper", helper + digests_at, 32 * digests)}
        for name in "json", "blobs", "keys", "payloads":
            self.parts[name] = (name, *self.regions[name])
        assert index and digests and spans > 1, "an image with a gzip index and digests"

    def file_extents(self):
        """(sector of the device, sector of the data space, number) of what lies in the blob."""
        (keys_at, size), (at, _) = self.regions["keys"], self.regions["payloads"]
        keys = struct.unpack_from(f"<{size // 4}I", self.data, keys_at)
        payloads = struct.unpack_from(f"<{len(keys)}Q", self.data, at)
        ends = keys[1:] + struct.unpack_from("<Q", self.data, 64)
        return [(k, p & (1 << 48) - 1, e - k) for k, p, e in zip(keys, payloads, ends) if p & (BLOB | METADATA) == BLOB]

    def flipped(self, region, byte, bit, right_sums):
        data = bytearray(self.data)
        data[byte] ^= 1 << bit
        if right_sums:
            at, size = self.regions[region]
            place = REGION_AT + 24 * REGIONS.index(region) + 16
            data[place:place + 4] = struct.pack("<I", crc32c(data[at:at + size]))
            data[:4096] = with_crc(bytes(data[:4096]))
        return data


def read_all(extents, tar):
    """How many pieces were right, were errors, were wrong."""
    tally, buf = [0, 0, 0], mmap.mmap(-1, 65536)
    fd = os.open("/dev/mapper/f", os.O_RDONLY | os.O_DIRECT)
    for sector, target, nr in extents:
        failed = 0
        for done in range(0, nr, 128):
            want = tar[(target + done) * 512:(target + min(done + 128, nr)) * 512]
            try:
                n = os.preadv(fd, [memoryview(buf)[:len(want)]], (sector + done) * 512)
                tally[0 if n == len(want) and buf[:n] == want else 2] += 1
            except OSError:
                tally[1] += 1
                failed += 1
                if failed == MAX_ERRORS:
                    break
    os.close(fd)
    return tally


class Node:
    def __init__(self, meta_dev, cache_dev, log, fastoci):
        self.meta_dev, self.cache_dev, self.log, self.fastoci = meta_dev, cache_dev, log, fastoci

    def cache_is_gone(self):
        out = subprocess.run([self.fastoci, "status", "--json"], capture_output=True, text=True)
        return out.returncode == 0 and not json.loads(out.stdout)["helper"]["caches"]

    def one(self, data, extents, tar):
        """What became of it: "refused", or the tally; and what the helper said."""
        begin = os.path.getsize(self.log)
        with open(self.meta_dev, "r+b") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        sectors, = struct.unpack_from("<Q", data, 64)
        line = f"0 {sectors} fastoci {self.meta_dev} {self.cache_dev}"
        made = subprocess.run(["dmsetup", "create", "f", "--readonly", "--table", line], capture_output=True)
        result = "refused"
        if made.returncode == 0:
            result = read_all(extents, tar)
            subprocess.run(["dmsetup", "remove", "--retry", "f"], check=True)
        else:
            subprocess.run(["dmsetup", "remove", "f"], capture_output=True)
        for _ in range(300):
            if self.cache_is_gone():
                break
            time.sleep(0.05)
        else:
            raise SystemExit("the helper kept its cache")
        with open(self.log) as f:
            f.seek(begin)
            return result, f.read()


def main():
    meta, layer, meta_dev, cache_dev, log, fastoci, flips, seed = sys.argv[1:9]
    rnd, node = random.Random(int(seed)), Node(meta_dev, cache_dev, log, fastoci)
    with open(meta, "rb") as f:
        image = Image(f.read())
    with gzip.open(layer) as f:
        tar = f.read()
    extents = image.file_extents()
    right, failed, wrong = node.one(image.data, extents, tar)[0]
    check(f"unflipped: {right} pieces of files are right", right > 10 and not failed and not wrong, str((right, failed, wrong)))
    each = -(-int(flips) // len(image.parts))
    for name, (region, at, size) in image.parts.items():
        refused, failed, harmless, wrong, silent = 0, 0, 0, [], []
        for i in range(each):
            byte, bit, sums = at + rnd.randrange(size), rnd.randrange(8), i > 0 and name not in ("keys", "payloads")
            result, said = node.one(image.flipped(region, byte, bit, sums), extents, tar)
            where = f"byte {byte - at} of {size}, bit {bit}, checksums {'right' if sums else 'wrong'}: {result}"
            if result == "refused":
                refused += 1
            elif result[2]:
                wrong.append(where)
            elif result[1]:
                failed += 1
                if "error" not in said:
                    silent.append(where)
            else:
                harmless += 1
                if not sums:
                    wrong.append(where + ": not noticed")
        check(f"{name}, {each} flips: {refused} refused, {failed} with failed reads, {harmless} harmless, none wrong",
              not wrong, "\n".join(wrong))
        check(f"{name}: each failure was reported", not silent, "\n".join(silent))
    end()


if __name__ == "__main__":
    main()
