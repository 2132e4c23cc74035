# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# kernels.sh - Debian's kernels in chroots of their own release: kernels-matrix and kernel-package build there.
# shellcheck source=selftests/lib/chroots.sh
. "${BASH_SOURCE%/*}/chroots.sh"
chroots=$cache/kernels-matrix

# chroot_of SUITE: sets $root; makes it at its first use
chroot_of() {
	root=$chroots/$1
	new_chroot "$root" "$1" make,perl-base,python3-minimal,gcc,libc6-dev,gcc-aarch64-linux-gnu --architectures=amd64,arm64
}

# kernels_of ROOT: "RELEASE ARCHITECTURE" of the newest of each series (6.1, 6.12, 7.3) and flavour (amd64, rt-amd64)
kernels_of() {
	local release series flavour
	inside "$1" apt-cache pkgnames linux-headers- | sed 's/^linux-headers-//' | sort -V |
	while read -r release; do
		# 6.1.0-57-cloud-amd64, 7.3.4+deb13-arm64-16k; not 6.12-amd64, which names no release
		[[ $release =~ ^([0-9]+\.[0-9]+)\.[0-9]+[^a-z]*([-+~.]deb[0-9.]+)?-(((rt|cloud)-)?(amd64|arm64)(-16k|-64k)?)$ ]] || continue
		series=${BASH_REMATCH[1]} flavour=${BASH_REMATCH[3]}
		case $flavour in *amd64*) echo "$series/$flavour $release amd64" ;; *) echo "$series/$flavour $release arm64" ;; esac
	done | awk '{ newest[$1] = $2 " " $3 } END { for (k in newest) print newest[k] }' | sort -V
}

# unpack ROOT INTO PACKAGE...: in the chroot, without installing
unpack() {
	local root=$1 into=$2
	shift 2
	inside "$root" sh -ec 'cd "$(mktemp -d)"; mkdir -p "$0"; apt-get download -q "$@"
		for file in *.deb; do dpkg-deb --fsys-tarfile "$file" | tar -x --keep-directory-symlink -C "$0"; done; rm -r "$PWD"' "$into" "$@"
}
depends_of() { inside "$1" apt-cache show "$2" | sed -n 's/^Depends: //p' | head -1 | tr -d ' ' | tr ',' '\n'; }

# headers ROOT RELEASE ARCH: unpacks them. Not installed: those of another architecture want a compiler of theirs, and some
# want the kernel itself.
headers() {
	local root=$1 release=$2 arch=$3 depends common kbuild
	[ ! -f "$root/usr/src/linux-headers-$release/.done" ] || return 0
	depends=$(depends_of "$root" "linux-headers-$release:$arch") || return
	common=$(grep -oE '^linux-headers-[^(|]*-common(-rt)?' <<<"$depends") || return
	kbuild=$(grep -oE '^linux-kbuild-[^(|:]*' <<<"$depends") || return
	inside "$root" apt-get install -q -y --no-install-recommends "$kbuild" || return
	unpack "$root" / "linux-headers-$release:$arch" "$common" || return
	touch "$root/usr/src/linux-headers-$release/.done"
}

# build ROOT RELEASE ARCH [FOLDER of kmod/]...: the module, and what else is to be built, in ROOT/src/kmod
build() {
	local root=$1 release=$2 arch=$3 cross=() folder
	shift 3
	[ "$arch" != arm64 ] || cross=(ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-)
	rm -rf "$root/src"
	mkdir -p "$root/src"
	cp -r kmod include/uapi "$root/src/" || return
	for folder in . "$@"; do
		inside "$root" make "-j$(nproc)" -C "/usr/src/linux-headers-$release" "M=/src/kmod/$folder" FASTOCI_UAPI=/src/uapi W=1 \
			"${cross[@]}" modules || return
	done
	[ "$(modinfo -F vermagic "$root/src/kmod/dm-fastoci.ko" | cut -d' ' -f1)" = "$release" ]
}
