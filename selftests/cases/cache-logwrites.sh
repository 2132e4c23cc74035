#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Order of writes and flushes under cache file and database: dm-log-writes records them while the cache fills and evicts, and
# the record is replayed to random points, as a disk could have been left by a power cut. LOGWRITES_POINTS: more of them.
# timeout: 400
# more: it takes minutes
# once: order of writes in user space
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
lib=$SELFTESTS/lib fs=$WORK/fs
settled() { [ "$(helper_stat 'caches[0] | .durable == .present and .evicting == 0')" = true ] && [ "$(helper_stat jobs)" = 0 ]; }
mark() { dmsetup message lw 0 mark "$*"; }
load_module
modprobe dm-log-writes || die 'no dm-log-writes'
modprobe dm-snapshot || die 'no dm-snapshot'
modprobe -r brd; must modprobe brd rd_nr=4 rd_size=98304
truncate -s 4M "$WORK/unused"
sectors=$("$PYTHON" "$lib/mkhelpermeta.py" "$WORK/meta" "$WORK/unused" "$WORK/data" "$WORK/blob")
dd if="$WORK/meta" of=/dev/ram0 bs=4096 conv=fsync,notrunc status=none
must mkfs.ext4 -q -J size=4 /dev/ram1
must dd if=/dev/ram1 of=/dev/ram2 bs=1M conv=fsync status=none
must dmsetup create lw --table "0 $(blockdev --getsz /dev/ram1) log-writes /dev/ram1 /dev/vda"
mkdir -p "$fs" /run/fastoci; must mount /dev/mapper/lw "$fs"
defer umount "$fs"
defer stop_helper
life() { # CACHE SIZE_MB ROUNDS READS
	"$BIN/fastoci-helperd" --cache-dir "$fs/$1" --cache-size-mb "$2" --decoders 3 >> "$WORK/helper.log" 2>&1 &
	helper_pid=$!
	wait_for 30 helper_ready || die 'the helper is not ready'
	cache=$(helper_stat cache_device)
	must dmsetup create t --readonly --table "0 $sectors fastoci /dev/ram0 $cache"
	for ((round = 1; round <= $3; round++)); do
		check "$1, round $round: reads are right" read_some "$round" "$4"
		check "$1, round $round: all is durable" wait_for 20 settled
		mark "quiet-$1-$(helper_stat 'caches[0].durable')"
		mark busy
	done
	evictions=$(counter evictions)
	is "$1: no read failed" "$(counter fails)" 0
	dmsetup remove t
	stop_helper
	losetup -d "$cache"
}
read_some() { # SEED NUMBER
	"$PYTHON" - "$WORK/data" "$1" "$2" <<-'PY'
	import mmap, os, random, sys
	want, rng = open(sys.argv[1], "rb").read(), random.Random(int(sys.argv[2]))
	fd, buf = os.open("/dev/mapper/t", os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 65536)
	for _ in range(int(sys.argv[3])):
	    at = rng.randrange(len(want) // 4096) * 4096
	    n = os.preadv(fd, [buf], at)
	    if buf[:n] != want[at:at + n]:
	        sys.exit(1)
	PY
}
life fills 4 3 2
is 'this one never evicted' "$evictions" 0
life evicts 2 3 60
check 'this one did' test "$evictions" -gt 20
umount "$fs"
dmsetup remove lw
ktap_of "$PYTHON" "$lib/logwrites.py" /dev/vda /dev/ram2 /dev/ram3 "$WORK/blob" "${LOGWRITES_POINTS:-25}" "${LOGWRITES_SEED:-$RANDOM}"
check 'nothing is left' nothing_left
finish
