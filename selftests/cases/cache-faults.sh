#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Cache devices that refuse slots, are full, become read-only or belong to something else: reads go on where a way exists.
# timeout: 240
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
lib=$SELFTESTS/lib
same() { drop_caches; blockdev --flushbufs /dev/mapper/t; timeout 60 cmp /dev/mapper/t "$DISK/data"; }
create() { dmsetup create t --readonly --table "0 $sectors fastoci /dev/ram0 $1"; }
start() { # start CACHE_DIR [OPTION...]
	"$BIN/fastoci-helperd" --cache-dir "$1" --lanes 3 "${@:2}" >> "$WORK/helper.log" 2>&1 &
	helper_pid=$!
	wait_for 30 helper_ready
}
load_module
use_disk
mkdir -p /run/fastoci
defer stop_helper
modprobe -r brd; must modprobe brd rd_nr=3 rd_size=65536
truncate -s 4M "$DISK/unused"
sectors=$("$PYTHON" "$lib/mkhelpermeta.py" "$DISK/meta" "$DISK/unused" "$DISK/data" "$DISK/blob")
dd if="$DISK/meta" of=/dev/ram0 bs=4096 conv=fsync,notrunc status=none

# Slots 9 to 24 of 127 are bad.
must dmsetup create c <<-TABLE
	0 1280 linear /dev/ram1 0
	1280 2048 error
	3328 13056 linear /dev/ram1 3328
TABLE
check 'the helper takes a device with bad slots' start "$DISK/c1" --cache-device /dev/mapper/c
check 'creates a device' create /dev/mapper/c
check 'every read is right' same
is 'none failed' "$(counter fails)" 0
check 'bad slots were retired' test "$(counter retired)" -gt 0
matches 'status says what to do' "$(helper_stat 'caches[0].trouble')" 'the cache device refuses writes: check it'
dmsetup remove t
stop_helper
dmsetup remove c

# A file system with room for some 20 of the image's 40 chunks.
must mkfs.ext4 -q -m 0 -O ^has_journal -E lazy_itable_init=1 /dev/ram2
mkdir -p "$WORK/small"; must mount /dev/ram2 "$WORK/small"
defer umount "$WORK/small"
mkdir "$WORK/small/c"
check 'the helper starts on a file system that will be full' start "$WORK/small/c" --cache-size-mb 128
free=$(df --output=avail -k "$WORK/small" | tail -1)
must fallocate -l $((free - 1300))K "$WORK/small/filler"
cache=$(helper_stat cache_device)
check 'creates a device' create "$cache"
check 'every read is right though it is full' same
is 'none failed' "$(counter fails)" 0
check 'it really was full' test "$(counter retired)" -gt 0
check 'and again, with evictions' same
is 'none failed again' "$(counter fails)" 0
rm "$WORK/small/filler"
dmsetup remove t
stop_helper
losetup -d "$cache"

# The machine's root, an overlay on tmpfs: before 6.6 it takes O_DIRECT and then fails every read.
check 'the helper starts over an overlay' start /var/tmp/c --cache-size-mb 16
cache=$(helper_stat cache_device)
check 'creates a device' create "$cache"
check 'every read is right there' same
is 'none failed there' "$(counter fails)" 0
dmsetup remove t
stop_helper
losetup -d "$cache"

# A device that holds something else is left alone.
must mkfs.ext4 -q -F /dev/ram1
sum=$(sha256sum < /dev/ram1)
timeout 20 "$BIN/fastoci-helperd" --cache-dir "$DISK/c3" --cache-device /dev/ram1 > "$WORK/refused" 2>&1
is 'a file system is not taken for a cache' $? 1
matches 'the message names the device and the reason' "$(cat "$WORK/refused")" '/dev/ram1: .*(superblock|blank)'
is 'and nothing was written to it' "$(sha256sum < /dev/ram1)" "$sum"
umount "$WORK/small"
check 'nothing is left' nothing_left
finish
