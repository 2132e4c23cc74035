#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Background download, then no source and no helper; bit rot; a configuration that does not keep the cache.
# once: the helper's cache and its download
# timeout: 400
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
lib=$SELFTESTS/lib
all_there() { [ "$(helper_stat 'images[0] | .chunks > 0 and .chunks == .present')" = true ]; }
same() { drop_caches; timeout 60 cmp /dev/mapper/t "$DISK/data"; }
create() { dmsetup create t --readonly --table "0 $sectors fastoci /dev/ram0 $cache"; }
find_cache() { cache=$(helper_stat cache_device); }
rotten() { [ "$(counter rotten)" = 1 ]; }
durable() { [ "$(helper_stat 'caches[0] | .present > 10 and .durable == .present')" = true ]; }

rows() {
	"$PYTHON" -c 'import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute("select count(*) from slots").fetchone())' \
		"$DISK/c/fastoci/cache.db"
}
load_module
use_disk
modprobe -r brd; must modprobe brd rd_nr=1 rd_size=65536
truncate -s 4M "$DISK/unused"
sectors=$("$PYTHON" "$lib/mkhelpermeta.py" "$DISK/meta" "$DISK/unused" "$DISK/data" "$DISK/blob")
dd if="$DISK/meta" of=/dev/ram0 bs=4096 conv=fsync,notrunc status=none
cat > "$WORK/config.json" <<-JSON
	{"gzipCacheConfig": {"cacheDir": "$DISK/c", "cacheSizeGB": 1},
	 "download": {"enable": true, "delay": 0, "delayExtra": 0, "maxMBps": 100}}
JSON
check 'fastoci config check accepts it' "$BIN/fastoci" config check "$WORK/config.json"
sed 's/delayExtra/delayextra/' "$WORK/config.json" > "$WORK/bad.json"
"$BIN/fastoci" config check "$WORK/bad.json" > "$WORK/bad.out" 2>&1
matches 'and names line and column of an unknown key' "$(cat "$WORK/bad.out")" \
	'bad.json:2:[0-9]+: unknown key "download.delayextra"'
run_helper() { "$BIN/fastoci-helperd" --config "$WORK/config.json" "$@" >> "$WORK/helper.log" 2>&1 & helper_pid=$!; wait_for 30 helper_ready; }
mkdir -p /run/fastoci
check 'the helper starts with it' run_helper
defer stop_helper
check 'its files lie in a directory of their own' test -f "$DISK/c/fastoci/cache.img"
find_cache
check 'creates a device' create
check 'all of it is downloaded, and nobody read it' wait_for 60 all_there
is 'no miss was needed' "$(counter misses)" 0
check 'and becomes durable' wait_for 20 durable
mv "$DISK/blob" "$DISK/away"
stop_helper
check 'without source and helper everything is readable' same
dmsetup remove t
check 'as after a reboot: the helper starts' run_helper
create
check 'and all is readable without the source' same
# One byte of a slot rots.
printf 'R' | dd of="$cache" bs=1 seek=$((65536 * 3 + 77)) conv=notrunc,fsync status=none
blockdev --flushbufs "$cache"
check 'a scrub is asked for' "$BIN/fastoci" scrub
check 'and finds the rot' wait_for 20 rotten
mv "$DISK/away" "$DISK/blob"
check 'the chunk comes from the source again' same
check 'with all chunks counted' test "$(counter scrubbed)" -ge "$(helper_stat 'images[0].present')"
# The same with verifyOnRead: no scrub is asked for.
stop_helper
sed 's/^{/{"verifyOnRead": true,/; s/^\t{/{"verifyOnRead": true,/' "$WORK/config.json" > "$WORK/verify.json"
"$BIN/fastoci-helperd" --config "$WORK/verify.json" >> "$WORK/helper.log" 2>&1 & helper_pid=$!
check 'verifyOnRead: the helper starts' wait_for 30 helper_ready
is 'and has found nothing' "$(counter rotten)" 0
printf 'R' | dd of="$cache" bs=1 seek=$((65536 * 5 + 99)) conv=notrunc,fsync status=none
blockdev --flushbufs "$cache"
drop_caches
cat /dev/mapper/t > /dev/null
check 'what was read is compared, and the rot found' wait_for 20 rotten
check 'reads are right again' same
dmsetup remove t
check 'what no image uses is freed' "$BIN/fastoci" gc
stop_helper
sed -i 's/"cacheSizeGB": 1/"cacheSizeGB": 1, "enable": false/' "$WORK/config.json"
check 'enable=false: the helper starts' run_helper
is 'with an empty cache' "$(rows)" 0
create
check 'which fills' wait_for 60 all_there
check 'and becomes durable meanwhile' wait_for 20 durable
dmsetup remove t
gone() { [ "$(rows)" = 0 ]; }
check 'with its last image the cache is dropped' wait_for 20 gone
check 'down to a few blocks' test "$(stat -c %b "$DISK/c/fastoci/cache.img")" -lt 1000
stop_helper
losetup -d "$cache"
check 'nothing is left' nothing_left
finish
