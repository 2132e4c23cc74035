#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
# Suspend with and without --noflush, table reload and removal, with parked readers and under load.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
load_image

must create
read_in_background
wait_for 20 has_parked
check 'suspend --noflush ends at once' timeout 30 dmsetup suspend --noflush t
is 'it takes what is parked back' "$(parked)" 0
check 'the reader waits on' kill -0 "$reader"
check 'a table is loaded meanwhile' dmsetup reload t --readonly --table "$(table 1 hold)"
check 'resume' dmsetup resume t
check 'the reader is parked by the new table' wait_for 20 has_parked
start_fake
check 'and ends well' wait "$reader"
check 'content is right after the reload' same
stop_fake
dmsetup remove t

must create 2 suspend_grace_ms 500
read_in_background
wait_for 20 has_parked
begin=$(now_ms)
check 'a flushing suspend ends' timeout 20 dmsetup suspend t
check 'not before its grace' [ $(($(now_ms) - begin)) -ge 500 ]
dmsetup resume t
check 'its reader failed' not wait "$reader"
dmsetup message t 0 suspend_grace_ms 30000
read_in_background
wait_for 20 has_parked
dmsetup suspend t & suspend=$!
check 'fail_pending works while a suspend waits' dmsetup message t 0 fail_pending
check 'the suspend ends then' done_within 10000 "$suspend"
dmsetup resume t
check 'and the reader failed' not wait "$reader"

# dmstats stops the device without a word to the target.
read_in_background
wait_for 20 has_parked
dmsetup message t 0 @stats_create - /1 > /dev/null & stats=$!
in_dm() { grep -q dm_ "/proc/$1/wchan"; }
check 'dmstats waits for parked reads' wait_for 20 in_dm $stats
check 'fail_pending is taken meanwhile' timeout 20 dmsetup message t 0 fail_pending
check 'and ends the wait' done_within 10000 $stats
is 'so that the region is there' "$ended" 0
check 'the reader failed' not wait "$reader"
dmsetup message t 0 @stats_delete 0

read_in_background
wait_for 20 has_parked
dmsetup suspend t & suspend=$!
start_fake
check 'a helper that comes during a flushing suspend ends it' done_within 20000 "$suspend"
dmsetup resume t
check 'and its reader is served' wait "$reader"
check 'content is right' same
stop_fake

# Under load: readers compare all along, while the table is suspended and replaced.
start_fake evict
touch "$tmp/load"
exec 7< /dev/mapper/t # so that remove is refused between two reads, too
load() { while [ -e "$tmp/load" ]; do cmp <("$@") "$tmp/data" || return 1; done; }
load dd if=/dev/mapper/t bs=4096 iflag=direct status=none & a=$!
load dd if=/dev/mapper/t bs=256K iflag=direct status=none & b=$!
turns=0
end=$((SECONDS + 12))
while [ $SECONDS -lt $end ]; do
	dmsetup suspend --noflush t && dmsetup resume t || break
	dmsetup reload t --readonly --table "$(table 1 hold)" && dmsetup suspend --noflush t && dmsetup resume t || break
	dmsetup message t 0 suspend_grace_ms 60000 && dmsetup suspend t && dmsetup resume t || break
	not dmsetup remove t 2>/dev/null || break
	turns=$((turns + 1))
done
rm "$tmp/load"
exec 7<&-
check "suspend, resume, reload and remove under load ($turns turns)" [ $SECONDS -ge $end ]
check 'the small reads stayed right' wait $a
check 'the large reads stayed right' wait $b
stop_fake
dmsetup remove t

# A cache device that is suspended itself while its chunks are read and evicted.
must dmsetup create c --table '0 8192 linear /dev/ram1 0'
must dmsetup create t --readonly --table "0 $sectors fastoci /dev/ram0 /dev/mapper/c"
start_fake
check 'fills a cache on a linear device' same
stop_fake
must dmsetup suspend c
before=$(hits)
more_hits() { [ "$(hits)" -gt "$before" ]; }
read_in_background
check 'a hit on a suspended cache device is a hit' wait_for 30 more_hits
is 'not parked by us' "$(parked)" 0
check 'and does not end' kill -0 "$reader"
start_fake "evict-all"
check 'EVICT does not wait for it' wait_for 30 grep -q evicted "$tmp/fake.out"
check 'nor does status' timeout 30 dmsetup status t
must dmsetup resume c
check 'the reader ends well' wait "$reader"
stop_fake
dmsetup remove t
dmsetup remove c
check 'nothing is left' nothing_left
finish
