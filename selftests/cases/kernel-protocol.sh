#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The miss protocol, message by message, and what readers see of it.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
lib=$SELFTESTS/lib tmp=/dev/shm/kernel-protocol
mkdir -p $tmp
modprobe brd rd_nr=2 rd_size=8192 && modprobe dm-mod && modprobe libcrc32c || die modprobe
must insmod "$MODULE"
truncate -s 4M $tmp/cache
sectors=$("$PYTHON" "$lib/mkmeta.py" $tmp/meta $tmp/cache $tmp/data)
dd if=$tmp/meta of=/dev/ram0 bs=4096 conv=fsync,notrunc status=none
dd if=$tmp/cache of=/dev/ram1 bs=64K conv=fsync,notrunc status=none
blockdev --flushbufs /dev/ram0 /dev/ram1
must dmsetup create t --readonly --table "0 $sectors fastoci /dev/ram0 /dev/ram1"
tracing=/sys/kernel/tracing
[ -d $tracing/events ] || mount -t tracefs t $tracing
echo 1 > $tracing/events/fastoci/enable
ktap_of "$PYTHON" "$lib/protocol.py" /dev/mapper/t $tmp/meta /dev/ram1
for event in map miss fill fail; do
	check "tracepoint fastoci_$event" grep -q "fastoci_$event: " $tracing/trace
done
echo 0 > $tracing/events/fastoci/enable
ktap_of "$PYTHON" "$lib/protocol.py" left-behind t
check 'nothing is left' nothing_left
finish
