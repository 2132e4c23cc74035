#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The miss protocol, message by message, and what readers see of it.
set -eu
lib=$(cd "$(dirname "$0")/../lib" && pwd)
tmp=$(mktemp -d /dev/shm/kernel-protocol.XXXXXX)
modprobe brd rd_nr=2 rd_size=8192
modprobe dm-mod
modprobe libcrc32c
insmod "$lib/../../build/kmod/$(uname -r)/dm-fastoci.ko"
truncate -s 4M "$tmp/cache"
sectors=$(/usr/bin/python3 "$lib/mkmeta.py" "$tmp/meta" "$tmp/cache" "$tmp/data")
dd if="$tmp/meta" of=/dev/ram0 bs=4096 conv=fsync,notrunc status=none
dd if="$tmp/cache" of=/dev/ram1 bs=64K conv=fsync,notrunc status=none
blockdev --flushbufs /dev/ram0 /dev/ram1
dmsetup create t --readonly --table "0 $sectors fastoci /dev/ram0 /dev/ram1"
tracing=/sys/kernel/tracing
[ -d $tracing/events ] || mount -t tracefs t $tracing
echo 1 > $tracing/events/fastoci/enable
status=0
/usr/bin/python3 "$lib/protocol.py" /dev/mapper/t "$tmp/meta" /dev/ram1 || status=$?
for event in map miss fill fail; do
	grep -q "fastoci_$event: " $tracing/trace || { echo "not ok 0 tracepoint fastoci_$event"; status=1; }
done
echo 0 > $tracing/events/fastoci/enable
dmsetup remove t
rmmod dm-fastoci
exit $status
