#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# soak-vm.sh: what selftests/soak runs. Two images of one registry, larger than the cache together, so each round evicts. A
# helper lives for LIVES-th part of the time, is then killed, and what is measured at the end of its life is held against what
# was measured when it was warm (its third round); the kernel's memory likewise over all lives.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
CASE=soak
lives=4 seconds=${SOAK_SECONDS:-120} round=0
mnt=$WORK/mnt
figures=${SOAK_FIGURES:-$WORK/figures}
pids() { pgrep -d ' ' '^fastoci-(help|fetch|decod)'; }
sum() { awk '{ n += $1 } END { print n + 0 }'; }
# role_kib ROLE: private memory of its processes; what they share, such as rings and libraries, counts once or not at all
role_kib() { for p in $(pgrep "^fastoci-$1"); do sed -n 's/^Private_[A-Za-z]*: *//p' "/proc/$p/smaps_rollup" 2> /dev/null; done | sum; }
descriptors() { for p in $(pids); do find "/proc/$p/fd" -mindepth 1 2> /dev/null | wc -l; done | sum; }
tasks() { for p in $(pids); do find "/proc/$p/task" -mindepth 1 -maxdepth 1 | wc -l; done | sum; }
slab_kib() { sed -n 's/^SUnreclaim: *\([0-9]*\).*/\1/p' /proc/meminfo; }
vmalloc_kib() { sed -n 's/^VmallocUsed: *\([0-9]*\).*/\1/p' /proc/meminfo; }
misses() { awk '/^fastoci_miss / { n = $2 } END { print n + 0 }' /proc/slabinfo; }
loops() { losetup -a | wc -l; }
devices() { dmsetup ls --target fastoci 2> /dev/null | grep -c fastoci; }
# Of the cache, which the kernel has while an image is attached.
slots_used() { helper_stat 'caches[0] | .present + .reserved + .evicting + .restorable'; }
idle() { [ "$(helper_stat jobs)" = 0 ] && [ "$(helper_stat 'caches | all(.evicting == 0)')" = true ]; }
names=(broker_kib fetcher_kib decoder_kib descriptors tasks slab_kib vmalloc_kib loops devices misses)
measure() { # into the associative array $1
	local -n m=$1
	wait_for 30 idle || note 'the helper does not come to rest'
	drop_caches
	m=([broker_kib]=$(role_kib help) [fetcher_kib]=$(role_kib fetch) [decoder_kib]=$(role_kib decod)
		[descriptors]=$(descriptors) [tasks]=$(tasks) [slab_kib]=$(slab_kib) [vmalloc_kib]=$(vmalloc_kib)
		[loops]=$(loops) [devices]=$(devices) [misses]=$(misses))
	{ printf 'round=%d' $round; for n in "${names[@]}"; do printf ' %s=%s' "$n" "${m[$n]}"; done; echo; } | tee -a "$figures" | sed 's/^/# /'
}
# grew WHAT FROM TO BOUND: TO is at most FROM + BOUND
grew() { check "$1: from $2 to $3, at most $4 more" test "$3" -le $(($2 + $4)); }
# a_round [quiet]: kills roles, but where it is to be measured what there is when all of them run
a_round() {
	local image f quiet=${1:-}
	round=$((round + 1))
	for image in one two; do
		fastoci -q attach "$REGISTRY/$image:fastoci" --mount "$mnt/$image" > "$WORK/said" 2>&1 || die "round $round: attach: $(cat "$WORK/said")"
		for f in "$DISK/$image"/*; do
			cmp "$f" "$mnt/$image/${f##*/}" || die "round $round: $image/${f##*/} differs"
		done
		[ -n "$quiet" ] || [ "$image" != one ] || [ $((round % 2)) = 0 ] || pkill -KILL '^fastoci-decod'
	done
	[ -n "$quiet" ] || [ $((round % 3)) != 0 ] || pkill -KILL '^fastoci-fetch'
	slots=$(slots_used)
	[ "$slots" -le "$(helper_stat 'caches[0].nr_slots')" ] || die "round $round: $slots slots are used, more than there are"
	for image in two one; do
		fastoci -q detach "$image-fastoci" > "$WORK/said" 2>&1 || die "round $round: detach: $(cat "$WORK/said")"
	done
	[ $((round % 2)) = 0 ] || fastoci -q gc > /dev/null
}
load_module
start_registry
for image in one two; do
	must "$PYTHON" "$SELFTESTS/lib/mkpatches.py" "$DISK/$image" "$DISK/$image.tar.gz" 2 $((2 << 20))
	dd if=/dev/urandom bs=64k count=1 status=none >> "$DISK/$image/00"
	tar -C "$DISK/$image" -czf "$DISK/$image.tar.gz" .
	must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout-$image" latest "$DISK/$image.tar.gz"
	push_image "$DISK/layout-$image:latest" $image:latest
	convert $image latest fastoci
done
helper_options=(--cache-size-mb 6 --decoders 3)
declare -A warm last first
: > "$figures"
for life in $(seq $lives); do
	end=$((SECONDS + seconds / lives)) began=$round warm=()
	start_helper
	while [ $SECONDS -lt $end ] || [ $((round - began)) -lt 5 ]; do
		a_round
		if [ $((round - began)) = 2 ]; then
			a_round quiet
			measure warm
			slots_warm=$slots
		fi
	done
	a_round quiet
	measure last
	[ "$life" != 1 ] || for n in "${names[@]}"; do first[$n]=${last[$n]}; done
	# Malloc's arenas settle late, and whether all lanes have their decoder is up to chance.
	grew "life $life: the broker's KiB" "${warm[broker_kib]}" "${last[broker_kib]}" 2048
	grew "life $life: the fetcher's KiB" "${warm[fetcher_kib]}" "${last[fetcher_kib]}" 4096
	grew "life $life: the decoders' KiB" "${warm[decoder_kib]}" "${last[decoder_kib]}" 4096
	grew "life $life: descriptors" "${warm[descriptors]}" "${last[descriptors]}" 12
	grew "life $life: threads and processes" "${warm[tasks]}" "${last[tasks]}" 3
	is "life $life: loop devices: the cache's" "${last[loops]}" 1
	is "life $life: dm devices" "${last[devices]}" 0
	is "life $life: misses that nobody freed" "${last[misses]}" 0
	# Read as often, the cache holds as much: a slot that is lost would be missing.
	check "life $life: no slot is lost" test "$slots" -ge $((${slots_warm:-0} - 8))
	is "life $life: no read failed" "$(counter fails)" 0
	note "life $life: $((round - began)) rounds, $(counter evictions) evictions, $(counter fills) fills"
	kill_helper
done
grew "over all lives: the kernel's KiB of slab" "${first[slab_kib]}" "${last[slab_kib]}" 6144
grew "over all lives: the kernel's KiB of vmalloc" "${first[vmalloc_kib]}" "${last[vmalloc_kib]}" 1024
note "$round rounds"
losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"
check 'nothing is left' nothing_left
finish
