#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""benchscale.py growth|scale WORKDIR: what dm-fastoci costs when there is much of everything. Runs in the VM.

growth (under QEMU -icount, where a nanosecond is an instruction): the constructor's cost per extent at 100,000 and at
1,000,000 extents. scale: seconds and bytes of kernel memory. Prints "name value" lines.
"""
import gc, hashlib, mmap, os, socket, struct, subprocess, sys, time, uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from dmdevice import Device, Log, write
from fakehelper import *
import metaimage
from metaimage import BLOB, ZERO, Blob, CacheSb, MetaImage


LOG = Log()
CACHES = []


class Live(Device):
    def __init__(self, name):
        super().__init__(name, LOG)

    def load(self, *args):
        words = self.refusal(*args)
        if words is not None:
            raise SystemExit(f"refused: {words}")

    def up(self, *args):
        self.load(*args)
        self.resume()


def figure(name, value):
    print(name, f"{value:.4g}" if isinstance(value, float) else value, flush=True)


def seconds(call, *args):
    begin = time.perf_counter()
    call(*args)
    return time.perf_counter() - begin


def kernel_memory():
    """Bytes in slabs, vmalloc and per-CPU areas: all that the module has. (MemAvailable moves by megabytes of its own.)"""
    gc.collect()
    subprocess.run("sync; echo 3 > /proc/sys/vm/drop_caches", shell=True, check=True)
    time.sleep(0.5)
    with open("/proc/meminfo") as f:
        sizes = dict(line.split(":") for line in f)
    return sum(int(sizes[name].split()[0]) for name in ("Slab", "VmallocUsed", "Percpu")) * 1024


def sectors_of(meta):
    with open(meta, "rb") as f:
        return struct.unpack_from("<Q", f.read(4096), 64)[0]


def sized_cache(name, nr_slots):
    """A cache of that many slots: its superblock in a part of /dev/ram3, the slots dm-zero's."""
    at = len(CACHES) * 2048
    CACHES.append(name)
    write("/dev/ram3", bytes(CacheSb(nr_slots, uuid=uuid.UUID(int=nr_slots))), at * 512)
    table = f"0 2048 linear /dev/ram3 {at}\n2048 {(nr_slots + 1) * 128 - 2048} zero\n"
    subprocess.run(["dmsetup", "create", name, "--readonly"], input=table, text=True, check=True)
    return f"/dev/mapper/{name}"


def growth():
    cache, cost = sized_cache("small", 1024), {}
    for nr, meta in ((100000, "/dev/ram1"), (1000000, "/dev/ram2")):
        dev, took = Live("g"), []
        for _ in range(3):
            took.append(seconds(dev.load, sectors_of(meta), meta, cache))
            dev.clear()
        dev.remove()
        cost[nr] = min(took) * 1e9 / nr
        figure(f"insn_per_extent_{nr}", cost[nr])
    figure("insn_per_extent_growth", cost[1000000] / cost[100000])


def scale():
    small = sized_cache("small", 1024)
    dev, meta = Live("m"), "/dev/ram2"
    dev.up(sectors_of(meta), meta, small)  # whatever is allocated once, is
    dev.remove()
    before = kernel_memory()
    devs = [Live(f"m{i}") for i in range(5)]
    took = [seconds(dev.up, sectors_of(meta), meta, small) for dev in devs]
    figure("attach_1m_extents_s", min(took))
    figure("bytes_per_extent", (kernel_memory() - before) / (len(devs) * 1e6))
    figure("remove_1m_extents_s", min(seconds(dev.remove) for dev in devs))

    chunks = 1 << 24  # FASTOCI_MAX_IMAGE_CHUNKS
    image = MetaImage([0], [BLOB], [Blob(chunks * metaimage.CHUNK, hashlib.sha256(b"many").digest())], chunks * 128)
    write("/dev/ram0", bytes(image))
    before = kernel_memory()
    dev = Live("m")
    dev.up(image.device_sectors, "/dev/ram0", small)
    figure("bytes_per_chunk", (kernel_memory() - before) / chunks)

    # Misses of 10,000 chunks at once, and their end.
    subprocess.run(["dmsetup", "mknodes"], check=True)
    h = Helper(register=False)
    h.sock.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE: it reads nothing for a while
    h.register()
    cache, space = u32(h.dump("GET_CACHES")[0][CACHE]), u32(h.dump("GET_SPACES")[0][A_SPACE])
    fd, buf = os.open("/dev/mapper/m", os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4096)

    def miss_all():
        for i in range(10000):
            try:
                os.preadv(fd, [buf], i * metaimage.CHUNK, os.RWF_NOWAIT)
            except BlockingIOError:
                pass

    figure("miss_10000_s", seconds(miss_all))
    figure("pending", u32(h.dump("GET_CACHES")[0][NR_PENDING]))

    def fail_all():
        for first in range(0, 10000, 200):
            batch = b"".join(attr(CHUNK, attr(SPACE, space) + attr(CHUNK_NO, i), True) for i in range(first, first + 200))
            h.do("FAIL", cache, attr(CHUNKS, batch, True))

    figure("fail_10000_s", seconds(fail_all))
    figure("pending_after", u32(h.dump("GET_CACHES")[0][NR_PENDING]))
    os.close(fd)
    h.sock.close()
    dev.remove()

    slots = 4 << 20
    big = sized_cache("big", slots)
    image = MetaImage([0], [ZERO], [], 8)
    write("/dev/ram0", bytes(image))
    before = kernel_memory()
    dev = Live("m")
    dev.up(8, "/dev/ram0", big)
    figure("bytes_per_slot", (kernel_memory() - before) / slots)
    dev.remove()
    subprocess.run(["dmsetup", "remove", "big"], check=True)

    keys = list(range(0, 8000, 8))
    blobs = [Blob(64 << 20, hashlib.sha256(b"layer%d" % i).digest()) for i in range(256)]
    image = MetaImage(keys, [BLOB | (i % 256) << 48 | i for i in range(len(keys))], blobs, 8000)
    write("/dev/ram0", bytes(image))
    devices = []

    def attach():
        for i in range(1000):
            devices.append(Live(f"d{i}"))
            devices[-1].up(8000, "/dev/ram0", small)

    def detach():
        for d in devices:
            d.remove()

    before = kernel_memory()
    figure("attach_1000_s", seconds(attach))
    figure("bytes_per_device", (kernel_memory() - before) / 1000)
    figure("dump_1000_s", seconds(lambda: len(Helper(register=False).dump("GET_IMAGES")) == 1000 or sys.exit("dump")))
    figure("remove_1000_s", seconds(detach))


if __name__ == "__main__":
    {"growth": growth, "scale": scale}[sys.argv[1]]()
