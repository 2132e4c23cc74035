#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# powercut-vm.sh ROUND FOLDER SECTORS MODULE: one life of the machine that selftests/powercut cuts. Its disk stays; what an
# earlier life cached is looked at first. Prints "RIGHT" or "WRONG", "KEPT n" (chunks that came back), then "BUSY n" and
# "QUIET n" with the number of durable chunks, until it is killed. Without lib.sh, and with few programs, as each that is
# started costs up to a second where machines are emulated.
export DM_DISABLE_UDEV=1
modprobe -a dm-mod loop || exit
modprobe -q libcrc32c # newer kernels have none
insmod "$4" || exit
mkdir /run/disk /run/fastoci
mount -t ext4 /dev/vda /run/disk || exit
mkdir -p /run/disk/cache
meta=$(losetup -f) # before the helper looks for one
losetup -r "$meta" "$2/meta"
bin/fastoci-helperd --cache-dir /run/disk/cache --cache-size-mb 2 --decoders 4 2> /run/helper.log &
/usr/bin/python3 -IS selftests/lib/powercut.py "$1" "$2/data" "0 $3 fastoci $meta"
cat /run/helper.log >&2
