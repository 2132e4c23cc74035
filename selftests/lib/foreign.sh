# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# foreign.sh - what the cases on images of the reference implementation share; behind lib.sh.
fixtures=$SELFTESTS/fixtures layers=$SELFTESTS/fixtures/layers mnt=$WORK/mnt
# shellcheck disable=SC2034 # for the cases
ext4=("$fixtures"/turbo-ext4/000{0,1,2}.turboOCIv1.tar.gz)
# The reference's convertor takes no uid, gid and mtime from PAX records and gives directories times of its own.
unlike=(uid gid mtime lost+found)
like() { cat; }
list() { "$PYTHON" "$SELFTESTS/lib/treelist.py" "$1" "${unlike[@]}" | like; }
# wanted NAME LAYER...: lists what these layers unpack to, in $WORK/NAME.wanted
wanted() {
	mkdir -p "$DISK/$1"
	must "$PYTHON" "$SELFTESTS/lib/applylayers.py" "$DISK/$1" "${@:2}"
	must list "$DISK/$1" > "$WORK/$1.wanted"
}
push() { # TAG [options] LAYER...
	"$PYTHON" "$SELFTESTS/lib/pushforeign.py" "$REGISTRY/foreign" "$@" >> "$WORK/push.log" 2>&1 || die "push of $1"
}
same_tree() { # NAME
	list "$mnt" > "$WORK/got" && diff "$WORK/$1.wanted" "$WORK/got"
}
attached() { fastoci -q attach "$REGISTRY/foreign:$1" --mount "$mnt" "${@:2}"; }
# reads_as NAME TAG [options of attach]: the image attaches, its tree is that of NAME, nothing shows behind a file's end
reads_as() {
	check "$2: attach and mount" attached "${@:2}" || return
	check "$2: the tree is what the layers unpack to" same_tree "$1"
	check "$2: zeros behind each file's end" "$PYTHON" "$SELFTESTS/lib/eofzeros.py" "$mnt"
	check "$2: detach" fastoci -q detach "$mnt"
}
