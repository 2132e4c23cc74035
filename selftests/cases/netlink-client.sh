#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The helper's netlink client and cache device against the module: build/test/kernel serves misses itself.
# once: the helper's netlink client; kernel-protocol is for each kernel
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
lib=$SELFTESTS/lib
# The VM's root is an overlay: the cache file wants a file system of its own, with direct I/O.
modprobe brd rd_nr=2 rd_size=65536 && modprobe loop && modprobe dm-mod && modprobe ext4 && load_crc || die modprobe
mkfs.ext4 -q /dev/ram1 && mkdir -p /mnt/cache && mount /dev/ram1 /mnt/cache || die 'no place for a cache'
export FASTOCI_TEST_DIR=/mnt/cache FASTOCI_TEST_META_DEV=/dev/ram0 FASTOCI_TEST_SECTORS
truncate -s 4M $FASTOCI_TEST_DIR/unused
FASTOCI_TEST_SECTORS=$("$PYTHON" "$lib/mkmeta.py" $FASTOCI_TEST_DIR/meta $FASTOCI_TEST_DIR/unused $FASTOCI_TEST_DIR/data)
PYTHONPATH=$lib "$PYTHON" -c 'import mkmeta, sys; sys.stdout.buffer.write(mkmeta.blob_data(mkmeta.BLOB_BYTES))' \
	> $FASTOCI_TEST_DIR/blob
dd if=$FASTOCI_TEST_DIR/meta of=/dev/ram0 bs=4096 conv=fsync,notrunc 2>/dev/null
check 'module loads' insmod "$MODULE"
check 'the client serves a device' timeout 120 "$TOP/build/test/kernel" --gtest_brief=1
check 'no device is left' not dmsetup info t 2>/dev/null
check 'rmmod leaves nothing behind' rmmod dm-fastoci
check 'no kernel report' kernel_log_clean
umount /mnt/cache
finish
