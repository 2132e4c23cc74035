#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""treelist.py DIR [FIELD...]: one line of JSON per file below DIR, sorted: what two copies of a tree must have in common.

Fields that are named are left out; so is /lost+found if that is named.
"""
import hashlib, json, os, stat, sys


def describe(path, root, links):
    st = os.lstat(path)
    kind = stat.S_IFMT(st.st_mode)
    d = {"path": os.path.relpath(path, root), "mode": oct(st.st_mode), "uid": st.st_uid, "gid": st.st_gid,
         "mtime": st.st_mtime_ns}
    names = os.listxattr(path, follow_symlinks=False)
    d["xattrs"] = {n: os.getxattr(path, n, follow_symlinks=False).hex() for n in sorted(names)}
    if kind == stat.S_IFLNK:
        d["link"] = os.readlink(path)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        d["rdev"] = (os.major(st.st_rdev), os.minor(st.st_rdev))
    if kind != stat.S_IFDIR:
        d["nlink"] = st.st_nlink
        d["first_name"] = links.setdefault((st.st_dev, st.st_ino), d["path"])
    if kind == stat.S_IFREG:
        with open(path, "rb") as f:
            d["sha256"] = hashlib.sha256(f.read()).hexdigest()
        d["size"] = st.st_size
    return d


def main():
    root, without = os.path.realpath(sys.argv[1]), sys.argv[2:]
    paths = [root]
    for top, dirs, files in os.walk(root):
        if "lost+found" in without and top == root and "lost+found" in dirs:
            dirs.remove("lost+found")
        paths += [os.path.join(top, n) for n in dirs + files]
    links = {}
    for path in sorted(paths):
        described = describe(path, root, links)
        print(json.dumps({key: value for key, value in described.items() if key not in without}, sort_keys=True))


if __name__ == "__main__":
    main()
