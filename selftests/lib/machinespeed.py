#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""machinespeed.py: how fast a machine is, as JSON: bench-service asks it natively and in its own machine. In each the best of
three: seconds to inflate 64 MiB and for the SHA-256 of 256 MiB (user code alone), microseconds of a system call, of the first touch of a page, and
milliseconds of a process that is started and waited for."""
import hashlib, json, mmap, os, random, time, zlib


def best(what):
    took = []
    for _ in range(3):
        begin = time.perf_counter()
        what()
        took.append(time.perf_counter() - begin)
    return min(took)


def touch_pages():
    with mmap.mmap(-1, 4096 * 5000) as memory:
        for at in range(0, len(memory), 4096):
            memory[at] = 1


def start_processes():
    for _ in range(30):
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


BLOCK = bytes(1 << 20)
TEXT = zlib.compress(random.Random(1).randbytes(1 << 15).hex().encode() * 16)  # a megabyte
print(json.dumps({"inflate_s": best(lambda: [zlib.decompress(TEXT) for _ in range(64)]),
                  "sha256_s": best(lambda: [hashlib.sha256(BLOCK) for _ in range(256)]),
                  "syscall_us": best(lambda: [os.getppid() for _ in range(20000)]) / 20000 * 1e6,
                  "page_us": best(touch_pages) / 5000 * 1e6,
                  "process_ms": best(start_processes) / 30 * 1e3}))
