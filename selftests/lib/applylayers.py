#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""applylayers.py DIR LAYER...: unpacks layers (bottom first) into an empty directory by the rules of the OCI image spec.

A plain second implementation, on Python's tarfile: what an image's file system must look like. Runs as root.
"""
import base64, os, shutil, stat, sys, tarfile, urllib.parse


class Tree:
    def __init__(self, root):
        self.root = os.path.realpath(root)
        self.mtimes = {}  # of directories, by path, set at the end
        self.root_mtime = 0
        os.chmod(self.root, 0o755)
        os.chown(self.root, 0, 0)

    def resolve(self, path, make_mtime):
        """The directory that path names, symbolic links followed within the root. With make_mtime only those of the layer:
        what else is there and no directory makes room for one, like that which a lower layer's link led to."""
        todo, at, links, like = [p for p in path.split("/") if p not in ("", ".")], self.root, 0, None
        while todo:
            name = todo.pop(0)
            if name == "..":
                at = at if at == self.root else os.path.dirname(at)
                continue
            full = os.path.join(at, name)
            like = like and self.resolve(os.path.relpath(os.path.join(like, name), self.root), None)
            if make_mtime is not None and os.path.lexists(full) and full not in self.mine:
                if os.path.islink(full) or not os.path.isdir(full):
                    like = self.resolve(os.path.relpath(full, self.root), None)
                    self.remove(full)
            if not os.path.lexists(full):
                if make_mtime is None:
                    return None
                os.mkdir(full, 0o755)
                os.chmod(full, 0o755)
                self.mtimes[full] = make_mtime
                if like:
                    os.chmod(full, stat.S_IMODE(os.lstat(like).st_mode))
                    os.chown(full, os.lstat(like).st_uid, os.lstat(like).st_gid)
                    self.mtimes[full] = self.mtimes.get(like, make_mtime)
                self.mine.add(full)
            if os.path.islink(full):
                links += 1
                assert links <= 40
                target = os.readlink(full)
                at = self.root if target.startswith("/") else at
                todo = [p for p in target.split("/") if p not in ("", ".")] + todo
            elif make_mtime is None and not os.path.isdir(full):
                return None
            else:
                assert os.path.isdir(full)
                at = full
        return at

    def remove(self, full):
        if os.path.isdir(full) and not os.path.islink(full):
            shutil.rmtree(full)
        elif os.path.lexists(full):
            os.unlink(full)
        for known in (self.mtimes, self.mine):
            for p in [p for p in known if p == full or p.startswith(full + "/")]:
                known.pop(p) if known is self.mtimes else known.discard(p)

    def hide(self, full, keep):
        """Takes away what lower layers brought."""
        if not os.path.lexists(full):
            return
        if full not in self.mine and not keep:
            self.remove(full)
        elif os.path.isdir(full) and not os.path.islink(full):
            for name in os.listdir(full):
                self.hide(os.path.join(full, name), False)

    def apply(self, path):
        self.mine = set()  # what this layer brought or updated
        with tarfile.open(path) as tar:
            for m in tar:
                self.entry(tar, m)

    def entry(self, tar, m):
        name = os.path.normpath(m.name)
        assert name.split("/")[0] != ".."
        mtime = self.mtime_of(m)
        if name in (".", "/"):
            self.attributes(self.root, m)
            self.root_mtime = mtime
            return
        parent, base = os.path.split(name)
        if base.startswith(".wh."):
            at = self.resolve(parent, mtime // 10**9 * 10**9)
            if base == ".wh..wh..opq":
                self.hide(at, True)
            else:
                self.hide(os.path.join(at, base[4:]), False)
            return
        at = self.resolve(parent, mtime // 10**9 * 10**9)
        up = at
        while up != self.root:
            self.mine.add(up)
            up = os.path.dirname(up)
        full = os.path.join(at, base)
        if m.islnk():
            lp, lb = os.path.split(os.path.normpath(m.linkname))
            target = os.path.join(self.resolve(lp, None), lb)
            if not (os.path.lexists(full) and os.path.samestat(os.lstat(full), os.lstat(target))):
                self.remove(full)
                os.link(target, full, follow_symlinks=False)
            self.mine.add(full)
            # The link's header decides, and adds extended attributes.
            self.attributes(full, m, False)
            os.utime(full, ns=(mtime, mtime), follow_symlinks=False)
            return
        if not (m.isdir() and os.path.isdir(full) and not os.path.islink(full)):
            self.remove(full)
        self.mine.add(full)
        if m.isdir():
            if not os.path.isdir(full):
                os.mkdir(full)
            self.mtimes[full] = mtime
        elif m.issym():
            os.symlink(m.linkname, full)
        elif m.ischr() or m.isblk():
            os.mknod(full, m.mode | (stat.S_IFCHR if m.ischr() else stat.S_IFBLK), os.makedev(m.devmajor, m.devminor))
        elif m.isfifo():
            os.mkfifo(full)
        else:
            with open(full, "wb") as f, tar.extractfile(m) as data:
                shutil.copyfileobj(data, f)
        self.attributes(full, m)
        if not m.isdir():
            os.utime(full, ns=(mtime, mtime), follow_symlinks=False)

    @staticmethod
    def mtime_of(m):
        whole, _, fraction = m.pax_headers.get("mtime", str(int(m.mtime))).partition(".")
        return 0 if whole.startswith("-") else int(whole) * 10**9 + int((fraction + "0" * 9)[:9])

    def attributes(self, full, m, replace=True):
        os.chown(full, m.uid, m.gid, follow_symlinks=False)
        if not os.path.islink(full):
            os.chmod(full, m.mode & 0o7777)
        for name in os.listxattr(full, follow_symlinks=False) if replace else []:
            os.removexattr(full, name, follow_symlinks=False)
        values = {}
        for key, value in m.pax_headers.items():
            if key.startswith("LIBARCHIVE.xattr."):
                values[urllib.parse.unquote(key[17:])] = base64.b64decode(value + "=" * (-len(value) % 4))
        for key, value in m.pax_headers.items():
            if key.startswith("SCHILY.xattr."):
                values[key[13:]] = value.encode("utf-8", "surrogateescape")
        for name, value in values.items():
            os.setxattr(full, name, value, follow_symlinks=False)

    def finish(self):
        for path, mtime in self.mtimes.items():
            os.utime(path, ns=(mtime, mtime))
        os.utime(self.root, ns=(self.root_mtime, self.root_mtime))


def main():
    tree = Tree(sys.argv[1])
    for path in sys.argv[2:]:
        tree.apply(path)
    tree.finish()


if __name__ == "__main__":
    main()
