#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
# All at once: readers on three devices, reloads, suspends, evictions, helper kills, removals, rmmod. STRESS_SECONDS=20.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
load_image
devices=(t0 t1 t2)
for name in "${devices[@]}"; do must create; done
touch "$tmp/go" "$tmp/reads"
going() { [ -e "$tmp/go" ]; }

# Readers: a device that was removed under one cannot be opened; a read may fail by policy; it may not be wrong.
reader() { # DEVICE BLOCKSIZE
	local wrong=0
	while going; do
		if dd if="/dev/mapper/$1" of="$tmp/read.$1.$2" bs="$2" iflag=direct status=none 2>/dev/null; then
			cmp -s "$tmp/read.$1.$2" "$tmp/data" || wrong=1
			echo >> "$tmp/reads"
		fi
	done
	return $wrong
}
suspender() {
	local name turn=0
	while going; do
		name=${devices[RANDOM % 2]} turn=$((turn + 1))
		case $((turn % 3)) in
		0) dmsetup suspend --noflush "$name" ;;
		1) dmsetup message "$name" 0 suspend_grace_ms 2000; dmsetup suspend "$name" ;;
		2) dmsetup reload "$name" --readonly --table "$(table 1 hold)"; dmsetup suspend --noflush "$name" ;;
		esac
		dmsetup resume "$name"
		case $((RANDOM % 4)) in
		0) dmsetup message "$name" 0 fail_pending ;;
		1) dmsetup message "$name" 0 fail_after_ms 500 ;;
		*) dmsetup message "$name" 0 hold ;;
		esac
	done
} 2>/dev/null
remover() {
	while going; do
		if dmsetup remove t2; then name=t2 create; fi
		rmmod dm_fastoci && touch "$tmp/unloaded"
	done
} 2>/dev/null

start_fake evict
pids=()
for name in t0 t1; do
	for size in 4096 256K; do reader $name $size & pids+=($!); done
done
reader t2 64K & pids+=($!)
suspender & suspender=$!
remover & remover=$!
end=$((SECONDS + ${STRESS_SECONDS:-20})) kills=0
while [ $SECONDS -lt $end ]; do
	before=$(wc -l < "$tmp/reads")
	moved() { [ "$(wc -l < "$tmp/reads")" -gt "$before" ] || [ $SECONDS -ge $end ]; }
	wait_for 60 moved || break
	stop_fake
	kills=$((kills + 1))
	start_fake evict || break
done
check "the readers went on ($(wc -l < "$tmp/reads") reads, $kills helpers killed)" [ $SECONDS -ge $end ]
rm "$tmp/go"
wait $suspender $remover
for name in "${devices[@]}"; do
	dmsetup resume "$name" 2>/dev/null
	dmsetup message "$name" 0 hold 2>/dev/null
done
wrong=0
for pid in "${pids[@]}"; do wait "$pid" || wrong=1; done
is 'no read was wrong' $wrong 0
check 'the module was never unloaded under them' not [ -e "$tmp/unloaded" ]
for name in t0 t1; do check "$name reads right afterwards" same $name; done
stop_fake
dmsetup remove_all
check 'nothing is left' nothing_left
finish
