#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A cache far smaller than the image, eight readers of two images that share it, and a helper that is killed and replaced while it evicts and fills.
# timeout: 240
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
lib=$SELFTESTS/lib
slots() { helper_stat 'caches[0] | .present + .reserved + .evicting + .restorable'; }
idle() { [ "$(helper_stat 'caches[0].evicting')" = 0 ]; }
reader() { # reader SEED: reads one of the devices in an order of its own until the stop file is there
	"$PYTHON" - "$1" "$DISK/data" "$WORK/stop" /dev/mapper/t$(($1 % 2)) <<-'PY'
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
load_module
use_disk
modprobe -r brd; must modprobe brd rd_nr=2 rd_size=65536
truncate -s 4M "$DISK/unused"
sectors=$("$PYTHON" "$lib/mkhelpermeta.py" "$DISK/meta" "$DISK/unused" "$DISK/data" "$DISK/blob")
for n in 0 1; do dd if="$DISK/meta" of=/dev/ram$n bs=4096 conv=fsync,notrunc status=none; done
helper_options=(--cache-size-mb 1 --lanes 4)
start_helper
cache=$(helper_stat cache_device)
for n in 0 1; do
	check "creates device $n" dmsetup create t$n --readonly --table "0 $sectors fastoci /dev/ram$n $cache"
done
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
check 'nothing is being evicted in the end' wait_for 10 idle
check 'no more slots than the cache has' test "$(slots)" -le 15
is 'no slot is left out' "$(helper_stat 'caches[0].nr_slots')" 15
check 'no read failed' test "$(counter fails)" = 0
check 'the cache file kept its size' test "$(stat -c %s "$CACHE_DIR/cache.img")" = 1048576
stop_helper
check 'removes the devices' dmsetup remove t0 t1
losetup -d "$cache"
check 'nothing is left' nothing_left
finish
