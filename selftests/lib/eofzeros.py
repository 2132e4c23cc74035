#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""eofzeros.py DIR: maps the last page of each file below DIR and checks that it is zeros behind the file's end.

The kernel shows what the file system's block holds there; Python's own mmap would hide it.
"""
import ctypes, os, stat, sys

PAGE = 4096
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def last_page(fd, size):
    at = libc.mmap(None, PAGE, 1, 1, fd, size // PAGE * PAGE)  # PROT_READ, MAP_SHARED
    if at == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    page = ctypes.string_at(at, PAGE)
    libc.munmap(at, PAGE)
    return page


def main():
    checked = bad = 0
    for top, _, files in os.walk(sys.argv[1]):
        for path in (os.path.join(top, f) for f in files):
            st = os.lstat(path)
            if not stat.S_ISREG(st.st_mode) or st.st_size % PAGE == 0:
                continue
            fd = os.open(path, os.O_RDONLY)
            checked += 1
            if any(last_page(fd, st.st_size)[st.st_size % PAGE:]):
                bad += 1
                print("bytes behind the end of", path)
            os.close(fd)
    print(checked, "files checked")
    sys.exit(bad != 0 or checked == 0)


if __name__ == "__main__":
    main()
