#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A cache 20 times smaller than each of two images that share a layer, eight readers, and a helper that is killed and
# replaced while it evicts and fills.
# once: the helper's eviction
# timeout: 400
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
lib=$SELFTESTS/lib
slots() { helper_stat 'caches[0] | .present + .reserved + .evicting + .restorable'; }
idle() { [ "$(helper_stat 'caches[0].evicting')" = 0 ]; }
reader() { # reader SEED: reads one of the devices in an order of its own until the stop file is there
	"$PYTHON" - "$1" "$DISK/data$(($1 % 2))" "$WORK/stop" /dev/mapper/t$(($1 % 2)) <<-'PY'
	import mmap, os, random, sys
	rng, want, stop = random.Random(int(sys.argv[1])), open(sys.argv[2], "rb").read(), sys.argv[3]
	fd, buf, reads = os.open(sys.argv[4], os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 65536), 0
	while not os.path.exists(stop) or reads < 20:
	    at = rng.randrange(len(want) // 4096) * 4096
	    n = os.preadv(fd, [buf], at)
	    if buf[:n] != want[at:at + n] or n == 0:
	        sys.exit(f"seed {sys.argv[1]}: wrong bytes at {at}, {n} read")
	    reads += 1
	PY
}
# kernel_slots: how many slots the kernel counts as free or holding a chunk, once no helper has any
kernel_slots() {
	"$PYTHON" - "$lib" <<-'PY'
	import sys
	sys.path.insert(0, sys.argv[1])
	from fakehelper import *
	h = Helper(register=False)
	cache = h.dump("GET_CACHES")[0]
	slots = [dict(attrs(dict(attrs(i[CHUNKS]))[CHUNK])) for i in h.dump("GET_SLOTS", attr(CACHE, u32(cache[CACHE])))]
	print(u32(cache[NR_FREE]) + sum(s[STATE][0] in (RESTORED, PRESENT) for s in slots))
	PY
}
load_module
use_disk
modprobe -r brd; must modprobe brd rd_nr=2 rd_size=65536
sectors=$("$PYTHON" "$lib/mkpair.py" "$DISK" 300)
for n in 0 1; do dd if="$DISK/meta$n" of=/dev/ram$n bs=4096 conv=fsync,notrunc status=none; done
helper_options=(--cache-size-mb 1 --decoders 4)
start_helper
cache=$(helper_stat cache_device)
for n in 0 1; do
	check "creates device $n" dmsetup create t$n --readonly --table "0 $sectors fastoci /dev/ram$n $cache"
done
attached() { [ "$(helper_stat 'images | length')" = 2 ]; }
check 'both images are served' wait_for 20 attached
is 'each is 20 times as large as the cache' "$(helper_stat 'images | map(.chunks) | min')" $((20 * $(helper_stat 'caches[0].nr_slots')))
is 'and shares a layer with the other' "$(helper_stat 'spaces | map(select(.used)) | length')" 3
pids=()
for seed in 1 2 3 4 5 6 7 8; do
	reader $seed > "$WORK/reader$seed.log" 2>&1 &
	pids+=($!)
done
busy() { [ "$(counter evictions)" -gt "$1" ]; }
for round in ${FASTOCI_KILLS:-1 2}; do
	check "it evicts and fills (round $round)" wait_for 60 busy 40
	is "no read failed (round $round)" "$(counter fails)" 0
	kill_helper
	start_helper
done
check 'another helper takes over under load' start_helper --takeover
check 'and evicts and fills' wait_for 60 busy 40
check 'the one before it has ended' wait_for 20 bash -c '[ "$(pgrep -xc fastoci-helperd)" = 1 ]'
touch "$WORK/stop"
wrong=0
for pid in "${pids[@]}"; do wait "$pid" || wrong=$((wrong + 1)); done
is 'every reader had the right bytes' $wrong 0
check 'nothing is being evicted in the end' wait_for 30 idle
check 'no more slots than the cache has' test "$(slots)" -le 15
check 'no read failed' test "$(counter fails)" = 0
check 'the cache file kept its size' test "$(stat -c %s "$CACHE_DIR/cache.img")" = 1048576
stop_helper
is 'the kernel misses no slot' "$(kernel_slots)" 15
check 'removes the devices' dmsetup remove t0 t1
losetup -d "$cache"
check 'nothing is left' nothing_left
finish
