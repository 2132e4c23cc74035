#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What else a block device is asked: writes, discards, NOWAIT and io_uring reads, hit and miss.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
requires /usr/include/liburing.h gcc
must gcc -O1 -Wall -Werror -o "$tmp/uringread" "$lib/uringread.c" -luring
load_image
uring() { timeout 60 "$tmp/uringread" /dev/mapper/t "$tmp/data" "$@"; }

must create
start_fake
check 'io_uring reads right data through misses' uring
check 'and through hits' uring
dmsetup remove t
create
check 'so it does where each read asks not to wait' uring nowait
matches 'a NOWAIT miss is EAGAIN' "$(cat "$WORK/check.out")" ', [1-9][0-9]* came back with EAGAIN'
check 'and once more' uring nowait
matches 'a NOWAIT hit is not' "$(cat "$WORK/check.out")" ', 0 came back with EAGAIN'
before=$(misses)
check 'registered buffers and polling threads' uring fixed
is 'made no miss' "$(misses)" "$before"

check 'a write is refused' not dd if=/dev/zero of=/dev/mapper/t bs=4096 count=1 oflag=direct
check 'a buffered write is refused' not dd if=/dev/zero of=/dev/mapper/t bs=4096 count=1 conv=fsync
check 'a discard is refused' not blkdiscard -f /dev/mapper/t
check 'zeroing is refused' not blkdiscard -f -z /dev/mapper/t
# Not only by the block layer's check of the device: the table's target itself, under a device that is not read-only.
must dmsetup create w --table "0 $sectors linear /dev/mapper/t 0" --readonly
check 'also through a device on top' not dd if=/dev/zero of=/dev/mapper/w bs=4096 count=1 oflag=direct
dmsetup remove w
check 'content is unchanged' same
check 'a flush succeeds' blockdev --flushbufs /dev/mapper/t
is 'both devices keep their blocks of 512' "$(blockdev --getss /dev/mapper/t)" 512
stop_fake
dmsetup remove t
check 'nothing is left' nothing_left
finish
