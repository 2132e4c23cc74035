#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The machine itself: the kernel that was asked for, device-mapper, a disk, a
# registry that takes an image and gives back the same bytes.
. "$(dirname "$0")/../lib.sh"
plan 5

case ${SELFTEST_KERNEL:-} in
debug | kcsan) check 'the kernel was built for this' [ ! -e "/boot/vmlinuz-$(uname -r)" ] ;;
*) is 'the kernel is the one asked for' "$(uname -r)" "${SELFTEST_KERNEL:-$(uname -r)}" ;;
esac
check "device-mapper works" bash -c 'modprobe dm-mod && dmsetup targets | grep -q linear'
check "the empty disk is there" test -b /dev/vda
start_registry
ok "the registry answers"
check "nothing is left behind" nothing_left
finish
