#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernel: debug
# Allocations and I/O that fail, one by one and at random.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
requires /sys/kernel/debug/failslab /sys/kernel/debug/fail_make_request
load_image
text=$(cat /sys/module/dm_fastoci/sections/.text)
size=$(readelf -SW "$MODULE" | awk '$2 == ".text" || $3 == ".text" { for (i = 1; i <= NF; i++) if ($i == "PROGBITS") print $(i + 3) }')
must insmod "${MODULE%/*}/tests/pause/fastoci-fail.ko"
ktap_of "$PYTHON" "$lib/faults.py" /dev/ram0 /dev/ram1 "$text" "$(printf '0x%x' $((text + 0x$size)))" "$MODULE"
must rmmod fastoci_fail
kernel_traces='INFO: rcu' # a failed allocation is told of with its trace
check 'nothing is left' nothing_left
finish
