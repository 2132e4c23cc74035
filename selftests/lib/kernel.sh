# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# kernel.sh - for the cases that drive the module alone: mkmeta.py's small image on /dev/ram0, an empty cache on
# /dev/ram1, and fakehelper.py in place of the helper. Source it after lib.sh.
lib=$SELFTESTS/lib tmp=/dev/shm/$CASE fake=''
mkdir -p "$tmp"

# load_image [quiet]: the modules, both ramdisks, the module; sets $sectors; $tmp/data is the device's content
load_image() {
	modprobe brd rd_nr=3 rd_size=8192 && modprobe -a dm-mod loop || die modprobe
	load_crc
	must insmod "$MODULE"
	truncate -s 4M "$tmp/cache"
	sectors=$("$PYTHON" "$lib/mkmeta.py" "$tmp/meta" "$tmp/cache" "$tmp/data" "$@") || die mkmeta.py
	dd if=/dev/zero of=/dev/ram0 bs=1M count=8 oflag=direct status=none
	dd if="$tmp/meta" of=/dev/ram0 bs=4096 conv=fsync,notrunc status=none
	dd if="$tmp/cache" of=/dev/ram1 bs=64K conv=fsync,notrunc status=none
	blockdev --flushbufs /dev/ram0 /dev/ram1
}
table() { echo "0 $sectors fastoci /dev/ram0 /dev/ram1 $*"; }
create() { dmsetup create "${name:-t}" --readonly --table "$(table "$@")"; }

start_fake() { # [MODE of fakehelper.py]
	FAKEHELPER=${1-} "$PYTHON" "$lib/fakehelper.py" /dev/ram1 > "$tmp/fake.out" 2> "$tmp/fake.err" &
	fake=$!
	wait_for 20 grep -q ready "$tmp/fake.out"
}
stop_fake() {
	[ -z "$fake" ] || { kill -9 "$fake"; wait "$fake" 2>/dev/null; }
	fake=''
}

# status_field N [DEVICE]: of dmsetup status, counted with its first three
status_field() { dmsetup status "${2:-t}" | cut -d' ' -f"$1"; }
hits() { status_field 7 "$@"; }
misses() { status_field 8 "$@"; }
parked() { status_field 9 "$@"; }
errors() { status_field 10 "$@"; }
has_parked() { [ "$(parked "$@")" -gt 0 ]; }

same() { cmp <(dd if=/dev/mapper/"${1:-t}" bs=4096 iflag=direct 2>/dev/null) "$tmp/data"; }
read_all() { dd if=/dev/mapper/"${1:-t}" of=/dev/null bs=1M iflag=direct 2>/dev/null; }
# read_in_background [DEVICE]: sets $reader; `wait $reader` tells how it ended
read_in_background() { read_all "$@" & reader=$!; }
# fails_within MS COMMAND...: it fails, and no later than that
fails_within() {
	local limit=$(($1 * SLOWER)) begin
	shift
	begin=$(now_ms)
	! "$@" || return
	[ $(($(now_ms) - begin)) -le "$limit" ]
}
# done_within MS PID: the process ends; its status is in $ended
done_within() {
	local begin
	begin=$(now_ms)
	wait "$2"
	ended=$?
	[ $(($(now_ms) - begin)) -le $(($1 * SLOWER)) ]
}
