#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
# All at once, with delays where it hurts: stress.py. STRESS_SECONDS=20, STRESS_SEED.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
load_image
# Fewer slots than chunks, on a device that can be suspended.
SLOTS=12
must dmsetup create c --table "0 $(((SLOTS + 1) * 128)) linear /dev/ram1 0"
"$PYTHON" -c 'import sys; sys.path.insert(0, sys.argv[1]); import metaimage
open("/dev/mapper/c", "r+b").write(bytes(metaimage.CacheSb(int(sys.argv[2]))))' "$lib" $SLOTS
blockdev --flushbufs /dev/mapper/c
for name in t0 t1 t2; do must dmsetup create $name --readonly --table "0 $sectors fastoci /dev/ram0 /dev/mapper/c"; done
# Each window that locking.md names is made wider.
must insmod "${MODULE%/*}/tests/pause/fastoci-pause.ko" delay_us=500
places=fastoci_park,fastoci_try_hit,fastoci_end_io,fastoci_missq_fill,fastoci_missq_fail,send_misses_event,fastoci_missq_resend
places+=,fastoci_missq_helper_lost,fastoci_cache_evict,grace_period_over,release_reads,run_timer
echo $places > /sys/module/fastoci_pause/parameters/at
ktap_of "$PYTHON" "$lib/stress.py" "${STRESS_SECONDS:-20}" "$tmp/data" /dev/ram0 /dev/mapper/c t0 t1 t2
note "$(cat /sys/module/fastoci_pause/parameters/entered) entries were delayed"
must rmmod fastoci_pause
for name in t0 t1 t2; do check "removes $name" dmsetup remove $name; done
dmsetup remove c
check 'nothing is left' nothing_left
finish
