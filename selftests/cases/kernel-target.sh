#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The kernel half alone: reads through dm-fastoci with a minimal helper.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
lib=$SELFTESTS/lib
helper=''
tmp=/dev/shm/kernel-target
mkdir -p $tmp
start_helper() { # start_helper [MODE]
	FAKEHELPER=${1-} "$PYTHON" "$lib/fakehelper.py" /dev/ram1 > $tmp/helper.out 2> $tmp/helper.err &
	helper=$!
	wait_for 20 grep -q ready $tmp/helper.out
}
stop_helper() { [ -z "$helper" ] || { kill -9 "$helper"; wait "$helper" 2>/dev/null; }; helper=''; }
field() { dmsetup status t | cut -d' ' -f"$1"; }
same() { cmp <(dd if=/dev/mapper/t bs=4096 iflag=direct 2>/dev/null) $tmp/data; }
read_fails() { not dd if=/dev/mapper/t of=/dev/null bs=4096 iflag=direct 2>/dev/null; }
create() { dmsetup create t --readonly --table "0 $sectors fastoci /dev/ram0 /dev/ram1 ${*-}"; }
in_background() { dd if=/dev/mapper/t of=/dev/null bs=1M iflag=direct 2>/dev/null & reader=$!; }
pending() { [ "$(field 9)" -gt 0 ]; }

modprobe brd rd_nr=2 rd_size=8192 && modprobe dm-mod && modprobe libcrc32c || die modprobe
check 'module loads' insmod "$TOP/build/kmod/$(uname -r)/dm-fastoci.ko"
make_image() {
	truncate -s 4M $tmp/cache
	sectors=$("$PYTHON" "$lib/mkmeta.py" $tmp/meta $tmp/cache $tmp/data)
	dd if=/dev/zero of=/dev/ram0 bs=1M count=8 oflag=direct 2>/dev/null
	dd if=$tmp/meta of=/dev/ram0 bs=4096 conv=fsync,notrunc 2>/dev/null
	dd if=$tmp/cache of=/dev/ram1 bs=64K conv=fsync,notrunc 2>/dev/null
	blockdev --flushbufs /dev/ram0 /dev/ram1
}
make_image
check 'refuses a writable table' not dmsetup create t --table "0 $sectors fastoci /dev/ram0 /dev/ram1" 2>/dev/null
check 'refuses a wrong length' not dmsetup create t --readonly --table "0 8 fastoci /dev/ram0 /dev/ram1" 2>/dev/null

check 'creates a device' create
check 'table line is reproduced' grep -q ' fastoci 1:0 1:1 3 hold suspend_grace_ms 5000' <(dmsetup table t)
start_helper
check 'reads right data through misses' same
misses=$(field 8)
check 'counted the misses' [ "$misses" -gt 0 ]
stop_helper
check 'reads right data again without a helper' same
check 'by hits alone' [ "$(field 8)" = "$misses" ]
check 'refuses writes' not dd if=/dev/zero of=/dev/mapper/t bs=4096 count=1 oflag=direct 2>/dev/null
check 'refuses discards' not blkdiscard -f /dev/mapper/t 2>/dev/null
check 'content is unchanged' same
check 'removes the device' dmsetup remove t

check 'a new device of a new cache is cold' create
in_background
check 'hold parks the reader' wait_for 20 pending
check 'remove of an open device is refused' not dmsetup remove t 2>/dev/null
start_helper
check 'a new helper is told what is pending' wait "$reader"
check 'and right data comes' same
stop_helper
dmsetup remove t

create
in_background
wait_for 20 pending
check 'fail_pending is taken' dmsetup message t 0 fail_pending
check 'and ends the read with an error' not wait "$reader"
check 'fail_after_ms is taken live' dmsetup message t 0 fail_after_ms 300
check 'and fails a read' read_fails
check 'errors are counted' [ "$(field 10)" -gt 0 ]
start_helper fail
dmsetup message t 0 hold
check 'a FAIL of the helper ends the read with an error' read_fails
stop_helper
in_background
wait_for 20 pending
check 'suspend --noflush requeues what is parked' timeout 20 dmsetup suspend --noflush t
check 'nothing is parked then' [ "$(field 9)" = 0 ]
check 'reload while suspended' dmsetup reload t --readonly --table "0 $sectors fastoci /dev/ram0 /dev/ram1 1 hold"
check 'resume' dmsetup resume t
check 'the reader waits again' wait_for 20 pending
start_helper
check 'and ends well' wait "$reader"
check 'after the reload content is right' same
stop_helper
dmsetup remove t

create
start_helper evict
for i in 1 2 3 4; do check "right data while chunks are evicted, round $i" same; done
for i in 1 2 3; do
	cmp <(dd if=/dev/mapper/t bs=4096 2>/dev/null) $tmp/data & a=$!
	cmp <(dd if=/dev/mapper/t bs=64K iflag=direct 2>/dev/null) $tmp/data & b=$!
	sleep 0.1
	stop_helper
	start_helper evict
	check "helper killed amid reads, buffered reader $i" wait $a
	check "helper killed amid reads, direct reader $i" wait $b
	blockdev --flushbufs /dev/mapper/t
done
stop_helper
check 'removes the device again' dmsetup remove t
check 'rmmod leaves nothing behind' rmmod dm-fastoci
check 'no kernel report' kernel_log_clean
finish
