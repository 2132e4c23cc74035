#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""readers.py DIR LIST NUMBER STOPFILE: NUMBER processes read the files of LIST (treelist.py's output) below DIR, each in
an order of its own, directly (no page cache), again and again until STOPFILE is there.

Ends at the first error or wrong content with a message and status 1, else prints how many files were read.
"""
import hashlib, json, mmap, multiprocessing, os, random, sys

BLOCK = 256 * 1024


def read_directly(path, buffer):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    digest, at = hashlib.sha256(), 0
    try:
        while True:
            n = os.preadv(fd, [buffer], at)
            if n == 0:
                return digest.hexdigest()
            digest.update(memoryview(buffer)[:n])
            at += n
    finally:
        os.close(fd)


def read_all(root, files, seed, stop, count, failed):
    buffer, order, done = mmap.mmap(-1, BLOCK), random.Random(seed), 0
    while not failed.value:
        order.shuffle(files)
        for f in files:
            path = os.path.join(root, f["path"])
            try:
                got = read_directly(path, buffer)
            except OSError as e:
                got = str(e)
            if got != f["sha256"]:
                print(f"{path}: {got}, wanted {f['sha256']}", flush=True)
                failed.value = 1
                return
            done += 1
            if failed.value:
                return
            if os.path.exists(stop):
                with count.get_lock():
                    count.value += done
                return


def main():
    root, listing, number, stop = sys.argv[1:5]
    with open(listing) as f:
        files = [d for d in map(json.loads, f) if d.get("size")]
    count, failed = multiprocessing.Value("q", 0), multiprocessing.Value("i", 0)
    crew = [multiprocessing.Process(target=read_all, args=(root, list(files), i, stop, count, failed))
            for i in range(int(number))]
    for p in crew:
        p.start()
    for p in crew:
        p.join()
    if any(p.exitcode for p in crew):
        failed.value = 1
    print(count.value, "files read")
    sys.exit(1 if failed.value or not count.value else 0)


if __name__ == "__main__":
    main()
