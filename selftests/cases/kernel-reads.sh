#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Reads through the module alone: misses, hits, eviction under readers, a helper that dies amid them.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
load_image
check 'refuses a writable table' not dmsetup create t --table "$(table)"
check 'refuses an unknown option' not create 1 fast
check 'refuses an option without its value' not create 1 fail_after_ms
check 'refuses a value out of range' not create 2 fail_after_ms 86400001
check 'refuses more words than options' not create 1 hold hold
refused() { # LINE WORDS
	dmesg -C
	check "refuses a table: $2" not dmsetup create t --readonly --table "0 $sectors fastoci $1"
	matches 'in these words' "$(dmesg)" "fastoci: $2 "
}
refused /dev/ram0 'needs <meta_dev> <cache_dev>'
refused '/dev/none /dev/ram1' 'cannot open the meta device'
refused '/dev/ram0 /dev/none' 'cannot open the cache device'
check 'creates a device' create
matches 'the table line is reproduced' "$(dmsetup table t)" ' fastoci 1:0 1:1 3 hold suspend_grace_ms 5000$'

start_fake
check 'reads right data through misses' same
first=$(misses)
check 'and counts them' [ "$first" -gt 0 ]
stop_fake
check 'reads right data again without a helper' same
is 'by hits alone' "$(misses)" "$first"
check 'removes the device' dmsetup remove t

check 'a new device of a new cache is cold' create
matches 'no chunk is present' "$(dm_status t)" ' 0/40 '
read_in_background
check 'its reader waits' wait_for 20 has_parked
start_fake
check 'a new helper is told what is pending' wait "$reader"
check 'and right data comes' same
stop_fake
start_fake fail
dmsetup remove t
create
check 'a FAIL of the helper ends the read with an error' not read_all
stop_fake
dmsetup remove t

create
start_fake evict
for i in 1 2 3 4; do check "right data while chunks are evicted, round $i" same; done
for i in 1 2 3; do
	cmp <(dd if=/dev/mapper/t bs=4096 2>/dev/null) "$tmp/data" & a=$!
	cmp <(dd if=/dev/mapper/t bs=64K iflag=direct 2>/dev/null) "$tmp/data" & b=$!
	before=$(misses)
	more_misses() { [ "$(misses)" -gt "$before" ]; }
	wait_for 20 more_misses
	stop_fake
	start_fake evict
	check "the helper is killed amid reads, buffered reader $i" wait $a
	check "the helper is killed amid reads, direct reader $i" wait $b
	blockdev --flushbufs /dev/mapper/t
done
stop_fake
check 'removes the device again' dmsetup remove t
check 'nothing is left' nothing_left
finish
