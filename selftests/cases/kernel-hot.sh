#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernel: kcsan
# timeout: 100
# Many reads that hit, on both CPUs at once, for the data-race detector: kernel-stress has too few of them for it.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
load_image
must create
start_fake
read_all
hot() { for _ in 1 2 3 4 5 6; do dd if=/dev/mapper/t of=/dev/null bs=512 iflag=direct count=4000 2>/dev/null || return; done; }
hot & first=$!
check 'one reads' hot
check 'and another' wait $first
check 'these were hits' test "$(hits)" -ge 10000
stop_fake
check 'removes the device' dmsetup remove t
check 'nothing is left' nothing_left
finish
