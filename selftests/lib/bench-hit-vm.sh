#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs in the VM of bench-hit: WORKDIR SECTORS_10K SECTORS_1M SECTORS_FLAT. Everything lies in memory. Prints a line
# "DEVICE PATTERN LEAST MEDIAN" per measurement, in guest instructions per read (of 4k_random_each: median and 99th percentile of
# single reads); "DEVICE skipped REASON" where a peer cannot run.
set -eu
work=$1 lib=$(cd "$(dirname "$0")" && pwd)
mib64=67108864
modprobe brd rd_nr=4 rd_size=69632
modprobe -a dm-mod libcrc32c ext4
insmod "$lib/../../build/kmod/$(uname -r)/dm-fastoci.ko"
# ram0: plain; ram1, ram2: meta devices; ram3: cache. Touched once, so that no read finds a hole.
for r in 0 3; do dd if=/dev/zero of=/dev/ram$r bs=1M count=68 oflag=direct status=none; done
dd if="$work/meta10k" of=/dev/ram1 bs=1M conv=fsync status=none
dd if="$work/meta1m" of=/dev/ram2 bs=1M conv=fsync status=none

measure() { # measure NAME PATTERN FILE BYTES BLOCK DEPTH READS random|sequential [each]
	local line
	line=$("$work/readbench" "${@:3}") && echo "$1 $2 $line"
}
all() { # all NAME DEVICE BYTES READS: each pattern; READS of 4 KiB, and in proportion
	measure "$1" 4k_random_qd1 "$2" "$3" 4096 1 "$4" random
	measure "$1" 4k_random_qd32 "$2" "$3" 4096 32 "$4" random
	measure "$1" 128k_random "$2" "$3" 131072 1 $(($4 / 20)) random
	measure "$1" 1m_sequential "$2" "$3" 1048576 1 $(($4 / 50)) sequential
}
short() { # short NAME DEVICE BYTES READS
	measure "$1" 4k_random_qd1 "$2" "$3" 4096 1 "$4" random &&
	measure "$1" 1m_sequential "$2" "$3" 1048576 1 $(($4 / 20)) sequential
}
create() { # create META SECTORS CACHE_SB [scattered]: all its chunks are present
	dd if="$3" of=/dev/ram3 bs=4096 conv=fsync,notrunc status=none
	blockdev --flushbufs /dev/ram3
	dmsetup create b --readonly --table "0 $2 fastoci $1 /dev/ram3"
	/usr/bin/python3 "$lib/fillall.py" ${4:-}
}
no_misses() {
	# field 8: misses; a miss would have been no hit path
	[ "$(dmsetup status b | cut -d' ' -f8)" = 0 ] || { echo "bench-hit: reads missed" >&2; exit 1; }
	dmsetup remove b
}
skipped() { echo "$1 skipped ${2//[^a-zA-Z0-9 .:_-]/ }"; }

sleep 2
dmsetup create l --readonly --table '0 131072 linear /dev/ram0 0'
all brd /dev/ram0 $mib64 20000
all linear /dev/mapper/l $mib64 20000
measure linear 4k_random_each /dev/mapper/l $mib64 4096 1 20000 random each
dmsetup remove l
create /dev/ram1 "$2" "$work/cache10k"
measure fastoci_10k 4k_random_qd1 /dev/mapper/b $(($2 * 512)) 4096 1 40000 random
measure fastoci_10k 4k_random_each /dev/mapper/b $(($2 * 512)) 4096 1 40000 random each
measure fastoci_10k 4k_random_qd32 /dev/mapper/b $(($2 * 512)) 4096 32 40000 random
no_misses
create /dev/ram2 "$3" "$work/cache1m"
measure fastoci_1m 4k_random_qd1 /dev/mapper/b $(($3 * 512)) 4096 1 40000 random
no_misses
dd if="$work/metaflat" of=/dev/ram1 bs=1M conv=fsync status=none
create /dev/ram1 "$4" "$work/cacheflat" scattered
measure fastoci_scattered 128k_random /dev/mapper/b $mib64 131072 1 1000 random
measure fastoci_scattered 1m_sequential /dev/mapper/b $mib64 1048576 1 400 sequential
no_misses
# An ext4 with one file, as the data of an image of one extent: on dm-fastoci, and on the bare ramdisk.
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 -O ^has_journal /dev/ram0 65536
mkdir -p /run/{mnt,memory,fuse}
mount /dev/ram0 /run/mnt
dd if=/dev/zero of=/run/mnt/file bs=1M count=40 conv=fsync status=none
umount /run/mnt
dd if=/dev/ram0 of=/dev/ram3 bs=64K seek=1 count=1024 conv=fsync status=none
create /dev/ram1 "$4" "$work/cacheflat"
all fastoci_flat /dev/mapper/b $mib64 20000
mount -o ro,noload /dev/mapper/b /run/mnt
measure fastoci_file 4k_random_qd1 /run/mnt/file 41943040 4096 1 20000 random
measure fastoci_file 1m_sequential /run/mnt/file 41943040 1048576 1 400 sequential
umount /run/mnt
no_misses
mount -o ro,noload /dev/ram0 /run/mnt
measure ext4_file 4k_random_qd1 /run/mnt/file 41943040 4096 1 20000 random
measure ext4_file 1m_sequential /run/mnt/file 41943040 1048576 1 400 sequential
umount /run/mnt

# Files of file systems in user space.
modprobe -a fuse squashfs
mount -t tmpfs memory /run/memory
dd if=/dev/zero of=/run/memory/file bs=1M count=40 status=none
bindfs /run/memory /run/fuse
measure bindfs 4k_random_qd1 /run/fuse/file 41943040 4096 1 4000 random
measure bindfs 1m_sequential /run/fuse/file 41943040 1048576 1 200 sequential
umount /run/fuse
# Not compressed, as ours is not; noise, as squashfs keeps no zeros.
openssl enc -aes-128-ctr -K 0 -iv 0 -in /run/memory/file -out /run/memory/noise 2> /dev/null
mkdir /run/memory/dir && mv /run/memory/noise /run/memory/dir/file
mksquashfs /run/memory/dir /run/memory/squash -noI -noD -noF -noX -no-xattrs -quiet -no-progress > /dev/null
squashfuse /run/memory/squash /run/fuse
measure squashfuse 4k_random_qd1 /run/fuse/file 41943040 4096 1 4000 random
measure squashfuse 1m_sequential /run/fuse/file 41943040 1048576 1 200 sequential
umount /run/fuse
rm -rf /run/memory/dir /run/memory/squash

# Block devices in user space.
if modprobe nbd 2> /dev/null; then
	nbdkit -U /run/nbd.sock memory 64M
	nbd-client -unix /run/nbd.sock /dev/nbd0 -b 4096 > /dev/null
	short nbd /dev/nbd0 $mib64 4000
	nbd-client -d /dev/nbd0 > /dev/null
else
	skipped nbd 'no module'
fi
if modprobe ublk_drv 2> /dev/null; then
	mknod -m 600 /dev/ublk-control c 10 "$(sed -n 's/ ublk-control$//p' /proc/misc | tr -d ' ')" 2> /dev/null || true
	"$work/ublkmem" 64 > /run/ublk.out &
	ublk=$!
	for _ in $(seq 100); do [ ! -s /run/ublk.out ] || break; sleep 0.1; done
	short ublk /dev/ublkb0 $mib64 4000
	kill -9 $ublk
	wait $ublk 2> /dev/null || true
else
	skipped ublk "no module in $(uname -r)"
fi
# overlaybd's own way: target_core_user and a loopback SCSI host, with tcmu-runner's handler for raw files.
if modprobe -a target_core_user tcm_loop sd_mod 2> /dev/null && command -v tcmu-runner > /dev/null; then
	mkdir -p /run/dbus /sys/kernel/config
	dbus-daemon --system --fork
	mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
	truncate -s 64M /run/memory/disk && dd if=/dev/zero of=/run/memory/disk bs=1M count=64 conv=notrunc status=none
	tcmu-runner > /run/tcmu.log 2>&1 &
	target=/sys/kernel/config/target tcmu=$!
	# It takes that name when its handlers are there.
	for _ in $(seq 100); do
		dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner \
			string:org.kernel.TCMUService1 2> /dev/null | grep -q 'boolean true' && break
		sleep 0.1
	done
	mkdir -p $target/core/user_0/bench
	echo "dev_config=qcow//run/memory/disk" > $target/core/user_0/bench/control
	echo "dev_size=$mib64" > $target/core/user_0/bench/control
	if echo 1 > $target/core/user_0/bench/enable; then
		mkdir -p $target/loopback/naa.5000000000000001/tpgt_1/lun/lun_0
		echo naa.5000000000000002 > $target/loopback/naa.5000000000000001/tpgt_1/nexus
		ln -s $target/core/user_0/bench $target/loopback/naa.5000000000000001/tpgt_1/lun/lun_0/link
		for _ in $(seq 100); do [ ! -b /dev/sda ] || break; sleep 0.1; done
		# Where a command waits for a timer, the clock counts that as well, so what fails or is uneven tells nothing.
		if out=$(short tcmu /dev/sda $mib64 4000); then echo "$out"; else skipped tcmu 'reads through it fail'; fi
	else
		skipped tcmu "$(tail -1 /run/tcmu.log)"
	fi
	kill -9 $tcmu
else
	skipped tcmu 'no module, or no tcmu-runner'
fi
