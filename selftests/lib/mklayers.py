#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mklayers.py SEED NUMBER PREFIX: random layers PREFIX.1.tar.gz ..., each changing what those below it made."""
import gzip, io, random, sys, tarfile

FORMATS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]


class Generator:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.dirs, self.files, self.links = [""], [], []

    def name(self):
        r = self.r
        n = r.choice([3, 3, 8, 8, 20, 60, 100, 200]) if r.random() < 0.3 else r.randrange(1, 10)
        return "".join(r.choice("abcdefghij\u00e9\u4e2d0123") for _ in range(n))[:80] or "x"

    def path(self):
        d = self.r.choice(self.dirs[-40:] + self.dirs[:5])
        path = (d + "/" if d else "") + self.name()
        if self.r.random() < 0.05 and path not in self.files + self.links:  # a parent without an entry
            self.dirs.append(path)
            path += "/" + self.name()
        return path

    def info(self, path, fmt):
        r = self.r
        m = tarfile.TarInfo(r.choice(["", "./", ""]) + path)
        m.mode = r.choice([0o644, 0o755, 0o4755, 0o600, 0o1777, 0])
        m.uid, m.gid = r.choice([0, 0, 1000, 65534, 70000, 3000000]), r.choice([0, 5, 1 << 20])
        m.mtime = r.randrange(0, 1 << 31)
        if fmt == tarfile.PAX_FORMAT:
            if r.random() < 0.3:
                m.pax_headers["mtime"] = f"{m.mtime}.{r.randrange(10**9):09d}"
            if r.random() < 0.15:
                for i in range(r.randrange(1, 4)):
                    size = r.choice([0, 1, 10, 100, 900])
                    m.pax_headers[f"SCHILY.xattr.trusted.{self.name()[:20]}{i}"] = "v" * size
        return m

    def layer(self, path, first):
        r = self.r
        fmt = r.choice(FORMATS)
        with gzip.GzipFile(path, "wb", mtime=0) as z, tarfile.open(fileobj=z, mode="w", format=fmt) as tar:
            if r.random() < 0.5:
                m = self.info("", fmt)
                m.name, m.type = "./", tarfile.DIRTYPE
                tar.addfile(m)
            for _ in range(r.choice([3, 30, 300])):
                self.entry(tar, fmt, first)
            if r.random() < 0.2:  # a large directory
                d = self.path()
                self.forget(d)
                m = self.info(d, fmt)
                m.type = tarfile.DIRTYPE
                tar.addfile(m)
                self.dirs.append(d)
                for i in range(r.choice([50, 500, 5000])):
                    self.file(tar, f"{d}/{i}{'n' * r.randrange(60)}", fmt, r.choice([0, 10]))

    def file(self, tar, path, fmt, size=None):
        r = self.r
        m = self.info(path, fmt)
        m.size = r.choice([0, 1, 511, 512, 513, 4095, 4096, 4097, 10000, 100000]) if size is None else size
        tar.addfile(m, io.BytesIO(r.randbytes(m.size)))
        self.files.append(path)

    def forget(self, path):
        """Takes the path and what is below out of the lists."""
        if any(path == l for l in self.links):
            self.links.remove(path)
        below = lambda p: p == path or p.startswith(path + "/")
        self.dirs = [d for d in self.dirs if not below(d)] or [""]
        self.files = [f for f in self.files if not below(f)]
        self.links = [f for f in self.links if not below(f)]

    def entry(self, tar, fmt, first):
        r = self.r
        what = r.random()
        path = self.path()
        if what < 0.35:
            self.forget(path)
            self.file(tar, path, fmt)
        elif what < 0.5:
            self.forget(path)
            m = self.info(path, fmt)
            m.type = tarfile.DIRTYPE
            tar.addfile(m)
            self.dirs.append(path)
        elif what < 0.58:
            self.forget(path)
            m = self.info(path, fmt)
            m.type, m.linkname = tarfile.SYMTYPE, r.choice(["x", "/etc/passwd", "../" * 5 + "y", "l" * r.randrange(1, 300)])
            tar.addfile(m)
            self.links.append(path)
        elif what < 0.65 and self.files:
            target = r.choice(self.files)
            if target == path or target.startswith(path + "/"):
                return
            self.forget(path)
            m = self.info(path, tarfile.GNU_FORMAT)
            m.type, m.linkname = tarfile.LNKTYPE, target
            tar.addfile(m)
            self.files.append(path)
        elif what < 0.7:
            self.forget(path)
            m = self.info(path, fmt)
            m.type = r.choice([tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
            m.devmajor, m.devminor = r.choice([(1, 3), (8, 300), (300, 70000)])
            tar.addfile(m)
            self.links.append(path)
        elif what < 0.75 and len(self.dirs) > 1:  # attributes of a directory
            d = r.choice(self.dirs[1:])
            m = self.info(d, fmt)
            m.type = tarfile.DIRTYPE
            tar.addfile(m)
        elif what < 0.85 and not first and (self.files or self.links):  # overwrite, perhaps by another type
            old = r.choice(self.files + self.links)
            self.forget(old)
            self.file(tar, old, fmt)
        elif what < 0.97 and not first:
            old = r.choice(self.files + self.links + self.dirs[1:] or ["x"])
            parent, _, base = old.rpartition("/")
            m = self.info((parent + "/" if parent else "") + ".wh." + base, fmt)
            tar.addfile(m)
            self.forget(old)
        elif not first:
            d = r.choice(self.dirs)
            m = self.info((d + "/" if d else "") + ".wh..wh..opq", fmt)
            tar.addfile(m)
            self.files = [f for f in self.files if not f.startswith(d + "/" if d else "")]
            self.links = [f for f in self.links if not f.startswith(d + "/" if d else "")]
            self.dirs = [x for x in self.dirs if x == d or not x.startswith(d + "/" if d else "")] or [""]


def main():
    seed, number, prefix = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    g = Generator(seed)
    for i in range(1, number + 1):
        g.layer(f"{prefix}.{i}.tar.gz", i == 1)


if __name__ == "__main__":
    main()
