# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# debimage.sh - for mkdemo and mkservices: layers made of Debian packages. The packages are unpacked, not installed: what their
# scripts would do is not needed to start the applications, but for the libraries that update-alternatives would link.
# The one who sources it has set $work, a directory.
base_packages=(base-files bash coreutils dash grep sed libc-bin tzdata ca-certificates)

download() { # download DIR PACKAGE...: the packages with all that they depend on
	mkdir -p "$1/partial"
	: > "$work/status"
	apt-get -qq -y --download-only --no-install-recommends -o Dir::State::status="$work/status" \
		-o Dir::Cache::archives="$1" -o Debug::NoLocking=1 -o APT::Sandbox::User=root install "${@:2}" >&2
}
# unpack_debs DIR TREE [OTHER]: those in DIR into TREE, but for those that are in OTHER, too
unpack_debs() {
	local deb
	mkdir -p "$2"
	for deb in "$1"/*.deb; do [ -f "${3:-/nonexistent}/${deb##*/}" ] || dpkg-deb -x "$deb" "$2"; done
}
link_blas() { # TREE
	local lib
	for lib in blas lapack; do ln -s "$lib/lib$lib.so.3" "$1/usr/lib/x86_64-linux-gnu/lib$lib.so.3"; done
}
pack() { # pack TREE LAYER: the same bytes whenever and wherever it runs
	tar -C "$1" --sort=name --mtime=@1700000000 --numeric-owner --owner=0 --group=0 --format=pax \
		--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -cf - . | gzip -n -6 > "$2"
}
