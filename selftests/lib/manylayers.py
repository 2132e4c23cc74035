#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""manylayers.py NUMBER PREFIX: small layers PREFIX.1.tar ..., of which each replaces, hides and links what those below made."""
import io, sys, tarfile


def layer(n):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        def file(path, text):
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.mtime = len(text), 0o644, n
            tar.addfile(info, io.BytesIO(text))

        def link(path, target):
            info = tarfile.TarInfo(path)
            info.type, info.linkname, info.mode, info.mtime = tarfile.LNKTYPE, target, 0o644, n
            tar.addfile(info)
        file("top", b"layer %d\n" % n)
        file(f"own/{n}", b"%d " % n * (n * 10))
        file(f"turns/{n % 16}", b"%d\n" % n * 2000)
        if n > 60 and n % 3 == 0:
            file(f"own/.wh.{n - 60}", b"")
        if n % 50 == 0:
            file("opaque/.wh..wh..opq", b"")
        file(f"opaque/{n}", b"x" * (n * 37 % 5000))
        if n % 7 == 0:
            link(f"linked/{n}", f"own/{n - 1}")
    return out.getvalue()


def main():
    for n in range(1, int(sys.argv[1]) + 1):
        with open(f"{sys.argv[2]}.{n}", "wb") as f:
            f.write(layer(n))


if __name__ == "__main__":
    main()
