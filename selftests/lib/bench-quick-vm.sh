#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs in the VM of bench-quick: WORKDIR SECTORS_10K SECTORS_1M. Prints "<what> <least> <median>" per device.
set -eu
work=$1 lib=$(cd "$(dirname "$0")" && pwd)
modprobe brd rd_nr=4 rd_size=69632
modprobe dm-mod
modprobe -q libcrc32c || : # newer kernels have none
insmod "$lib/../../build/kmod/$(uname -r)/dm-fastoci.ko"
# ram0: plain; ram1, ram2: meta devices; ram3: cache. Touched once, so that no read finds a hole.
for r in 0 3; do dd if=/dev/zero of=/dev/ram$r bs=1M count=68 oflag=direct status=none; done
dd if="$work/meta10k" of=/dev/ram1 bs=1M conv=fsync status=none
dd if="$work/meta1m" of=/dev/ram2 bs=1M conv=fsync status=none
measure() { # measure NAME DEVICE BYTES
	local line
	line=$("$work/rd4k" "$2" 40000 "$3")
	echo "$1" "$(sed -E 's/.*min +([0-9]+) +median +([0-9]+).*/\1 \2/' <<<"$line")"
}
fastoci() { # fastoci NAME META SECTORS CACHE_SB
	dd if="$4" of=/dev/ram3 bs=4096 conv=fsync,notrunc status=none
	blockdev --flushbufs /dev/ram3
	dmsetup create b --readonly --table "0 $3 fastoci $2 /dev/ram3"
	/usr/bin/python3 "$lib/fillall.py"
	measure "$1" /dev/mapper/b $(($3 * 512))
	# field 8: misses; a miss would have been no hit path
	[ "$(dmsetup status b | cut -d' ' -f8)" = 0 ] || { echo "bench-quick: reads missed" >&2; exit 1; }
	dmsetup remove b
}
dmsetup create l --readonly --table '0 131072 linear /dev/ram0 0'
sleep 2
measure brd /dev/ram0 67108864
measure linear /dev/mapper/l 67108864
fastoci fastoci_10k /dev/ram1 "$2" "$work/cache10k"
fastoci fastoci_1m /dev/ram2 "$3" "$work/cache1m"

# Beside it, a file: of ext4 on the ramdisk, and of the least that a file system in user space can do, bindfs over memory.
modprobe ext4
modprobe fuse
mkdir -p /run/ext4 /run/memory /run/fuse
dmsetup remove l
mkfs.ext4 -q -E lazy_itable_init=0 /dev/ram0
mount /dev/ram0 /run/ext4
mount -t tmpfs memory /run/memory
for dir in /run/ext4 /run/memory; do dd if=/dev/zero of=$dir/file bs=1M count=40 conv=fsync status=none; done
bindfs /run/memory /run/fuse
measure ext4 /run/ext4/file 41943040
measure fuse /run/fuse/file 41943040
