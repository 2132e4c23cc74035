# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# chroots.sh - chroots of Debian's releases, made by mmdebstrap as root, kept in ~/.cache/fastoci.
#
# MIRROR: another mirror than deb.debian.org. STALE_MIRROR=1 takes lists that are past their date, as those of an archive's
# snapshot are.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/fastoci
mirror=${MIRROR:-http://deb.debian.org/debian}

# inside ROOT COMMAND...: in the chroot, with a /proc (objtool looks there), and without questions
inside() {
	local root=$1
	shift
	# shellcheck disable=SC2016 # for the inner shell
	unshare --mount --pid --fork sh -c 'root=$1; shift; mount -t proc proc "$root/proc" && exec chroot "$root" "$@"' \
		sh "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"
}

# new_chroot ROOT SUITE PACKAGES [OPTION of mmdebstrap]...: unless it is there. Package lists stay in it
new_chroot() {
	local root=$1 suite=$2 packages=$3 sources=("deb $mirror $2 main")
	shift 3
	[ ! -d "$root" ] || return 0
	[ -z "${STALE_MIRROR:-}" ] || set -- "$@" --aptopt='Acquire::Check-Valid-Until "false"'
	[ "$suite" = sid ] || sources+=("deb $mirror $suite-updates main" "deb $mirror $suite-backports main"
		"deb ${mirror%/debian}/debian-security $suite-security main")
	rm -rf "$root.new"
	mkdir -p "$(dirname "$root")"
	mmdebstrap --quiet --variant=apt --skip=cleanup/apt/lists --include="$packages" "$@" "$suite" "$root.new" "${sources[@]}" >&2
	mv "$root.new" "$root"
}
