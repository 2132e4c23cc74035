#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Without a helper nothing hangs that should not: hold, fail_after_ms, fail_pending, remove, blkid, rmmod.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
load_image quiet
finds_nothing() { timeout 10 "$@"; [ $? = 2 ]; } # blkid's status for that

must create
read_in_background
check 'hold parks the reader' wait_for 20 has_parked
check 'remove of an open device with pending reads is refused at once' fails_within 5000 dmsetup remove t
matches 'with EBUSY' "$(dmsetup remove t 2>&1)" 'Device or resource busy'
check 'blkid returns, although nobody serves' finds_nothing blkid -p /dev/mapper/t -o udev
check 'and so does a look at all devices' finds_nothing blkid -c /dev/null
check 'the reader still waits' kill -0 "$reader"
start_fake
check 'and ends well once a helper comes' wait "$reader"
check 'with right data' same
stop_fake
dmsetup remove t

must create
read_in_background
wait_for 20 has_parked
check 'fail_pending is taken' dmsetup message t 0 fail_pending
check 'and ends the reader at once' done_within 5000 "$reader"
check 'with an error' [ "$ended" != 0 ]
is 'nothing is parked' "$(parked)" 0
check 'which is counted' [ "$(errors)" -gt 0 ]
read_in_background
wait_for 20 has_parked
check 'fail_after_ms is taken live' dmsetup message t 0 fail_after_ms 300
check 'also for who waits already' done_within 5000 "$reader"
check 'who fails' [ "$ended" != 0 ]
begin=$(now_ms)
check 'a later read fails in time' fails_within 5000 read_all
check 'but not before' [ $(($(now_ms) - begin)) -ge 300 ]
dmsetup message t 0 fail_after_ms 0
check 'fail_after_ms 0 fails at once' fails_within 5000 read_all
matches 'status names the policy' "$(dm_status t)" ' none fail_after_ms:0 0$'
for bad in 'fail_after_ms 86400001' 'fail_after_ms x' 'fail_after_ms' 'suspend_grace_ms 600001' 'nothing' 'hold 1'; do
	# shellcheck disable=SC2086 # words
	check "the message '$bad' is refused" not dmsetup message t 0 $bad
done
matches 'and changes nothing' "$(dmsetup table t)" '4 fail_after_ms 0 suspend_grace_ms 5000$'
dmsetup message t 0 hold
matches 'hold is back' "$(dm_status t)" ' none hold 0$'

# A helper that dies with a message unacknowledged: deadlines hold, and the timer does not run on and on.
must insmod "${MODULE%/*}/tests/pause/fastoci-pause.ko" delay_us=1
echo 300 > /sys/module/dm_fastoci/parameters/stall_ms
start_fake silent
read_in_background
stalled() { dm_status t | grep -q ' stalled '; }
check 'a helper that acknowledges nothing is stalled' wait_for 20 stalled
stop_fake
echo run_timer > /sys/module/fastoci_pause/parameters/at
dmsetup message t 0 fail_after_ms 2000
check 'a deadline holds after it died' done_within 10000 "$reader"
check 'its reader fails' [ "$ended" != 0 ]
check 'the timer ran a few times' [ "$(cat /sys/module/fastoci_pause/parameters/entered)" -lt 30 ]
rmmod fastoci_pause
dmsetup message t 0 hold

# Read-ahead waits for no helper that is not there: a buffered read fails or parks for its own page alone.
dd if=/dev/mapper/t of=/dev/null bs=4096 skip=$((5 << 8)) 2>/dev/null & reader=$!
wait_for 20 has_parked
dmsetup message t 0 fail_pending
check 'a buffered reader fails' not wait "$reader"
check 'rmmod of a module in use is refused at once' fails_within 10000 rmmod dm_fastoci
check 'removes the device' dmsetup remove t
check 'nothing is left' nothing_left
finish
