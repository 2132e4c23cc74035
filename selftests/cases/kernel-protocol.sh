#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The miss protocol, message by message, and what readers see of it.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
load_image
is 'its family loads the module' "$(modinfo -F alias "$MODULE")" net-pf-16-proto-16-family-fastoci
must create
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
