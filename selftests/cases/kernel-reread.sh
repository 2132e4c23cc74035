#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Hits whose read of the cache device fails: runs of slots, readahead, a cache that is bad as a whole.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
load_image
# Between the device and its cache, so that the cache can fail.
must dmsetup create c --table "0 $(blockdev --getsz /dev/ram1) linear /dev/ram1 0"
must dmsetup create t --readonly --table "0 $sectors fastoci /dev/ram0 /dev/mapper/c"
disk=
if modprobe -q sd_mod && modprobe -q scsi_debug dev_size_mb=10; then
	wait_for 20 test -b /dev/sda || die 'no disk of scsi_debug'
	disk=/dev/sda
else
	skip 'errors of the medium' 'the kernel has no scsi_debug'
fi
ktap_of "$PYTHON" "$lib/reread.py" t "$tmp/meta" /dev/ram1 $disk
check 'removes the devices' dmsetup remove t c
check 'nothing is left' nothing_left
finish
