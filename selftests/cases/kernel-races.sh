#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
# The races that docs/locking.md argues about, each with its order forced: one side is held where it enters a function.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
load_image
must insmod "${MODULE%/*}/tests/pause/fastoci-pause.ko"
# Between the device and its cache, so that the cache can fail.
must dmsetup create c --table "0 $(blockdev --getsz /dev/ram1) linear /dev/ram1 0"
must dmsetup create t --readonly --table "0 $sectors fastoci /dev/ram0 /dev/mapper/c"
ktap_of "$PYTHON" "$lib/races.py" t "$tmp/meta" /dev/ram1
ktap_of "$PYTHON" "$lib/races.py" rmmod t /dev/ram1
check 'the pause goes' rmmod fastoci_pause
check 'removes the device' dmsetup remove c
check 'nothing is left' nothing_left
finish
