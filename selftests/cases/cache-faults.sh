#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Cache devices that refuse slots or cannot be read any more, are full or read-only, have another geometry or belong to
# something else: reads go on where a way exists.
# timeout: 900
# more: it takes minutes
# once: what the helper does about a cache device
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
lib=$SELFTESTS/lib
same() { drop_caches; blockdev --flushbufs /dev/mapper/t; timeout 60 cmp /dev/mapper/t "$DISK/data"; }
create() { dmsetup create t --readonly --table "0 $sectors fastoci /dev/ram0 $1"; }
start() { # start CACHE_DIR [OPTION...]
	"$BIN/fastoci-helperd" --cache-dir "$1" --decoders 3 "${@:2}" >> "$WORK/helper.log" 2>&1 &
	helper_pid=$!
	wait_for 30 helper_ready
}
load_module
use_disk
mkdir -p /run/fastoci
defer stop_helper
modprobe -r brd; must modprobe brd rd_nr=3 rd_size=65536
truncate -s 4M "$DISK/unused"
sectors=$("$PYTHON" "$lib/mkhelpermeta.py" "$DISK/meta" "$DISK/unused" "$DISK/data" "$DISK/blob")
dd if="$DISK/meta" of=/dev/ram0 bs=4096 conv=fsync,notrunc status=none

# Slots 9 to 24 of 127 are bad.
must dmsetup create c <<-TABLE
	0 1280 linear /dev/ram1 0
	1280 2048 error
	3328 13056 linear /dev/ram1 3328
TABLE
check 'the helper takes a device with bad slots' start "$DISK/c1" --cache-device /dev/mapper/c
check 'creates a device' create /dev/mapper/c
check 'every read is right' same
is 'none failed' "$(counter fails)" 0
check 'bad slots were retired' test "$(counter retired)" -gt 0
matches 'status says what to do' "$(helper_stat 'caches[0].trouble')" 'the cache device refuses writes: check it'
dmsetup remove t
stop_helper
dmsetup remove c

# Reads that fail under a hit: slots that were filled, 8 of them now bad, in the middle of runs.
linear='0 16384 linear /dev/ram1 0'
swap() { dmsetup suspend --nolockfs "$1" && dmsetup reload "$1" --table "$2" && dmsetup resume "$1"; }
swap_cache() { swap c "$1"; }
direct() { timeout 60 cmp <(dd if=/dev/mapper/t bs="$1" iflag=direct status=none) "$DISK/data"; }
errors() { dm_status t | cut -d' ' -f7; }
must dd if=/dev/zero of=/dev/ram1 bs=1M count=8 oflag=direct status=none
must dmsetup create c --table "$linear"
check 'the helper takes the sound device' start "$DISK/c4" --cache-device /dev/mapper/c
check 'creates a device' create /dev/mapper/c
check 'every read is right before' same
before=$(helper_stat 'caches[0].present')
first_bad=$("$PYTHON" - "$lib" "$DISK/meta" <<-'PY'
	import sys
	sys.path.insert(0, sys.argv[1])
	from driver import *
	read = {c for _, n, data in blob_places(sys.argv[2]) for c in range(data // 128, (data + n - 1) // 128 + 1)}
	slots = Driver("/dev/mapper/c", register=False).slots().items()
	full = {slot for slot, s in slots if s[STATE][0] == PRESENT and u32(s[CHUNK_NO]) in read}
	print(next(s for s in sorted(full) if s > 2 and all(s + i in full for i in range(8))))
	PY
)
begin=$((128 + first_bad * 128))
must swap_cache "0 $begin linear /dev/ram1 0
$begin 1024 error
$((begin + 1024)) $((16384 - begin - 1024)) linear /dev/ram1 $((begin + 1024))"
check 'large direct reads are right though slots cannot be read' direct 1M
is 'no read failed' "$(errors)" 0
is 'nor did a fetch' "$(counter fails)" 0
is 'the bad slots were retired, and no others' "$(helper_stat 'caches[0].retired')" 8
is 'each chunk has a slot again' "$(helper_stat 'caches[0].present')" "$before"
matches 'status names one and says what to do' "$(helper_stat 'caches[0].trouble')" \
	'slot [0-9]+ cannot be read, 8 in all: .*check the cache device.*fastoci scrub'
is 'the log has the first of them, not a line for each' "$(grep -c 'slot [0-9]* cannot be read' "$WORK/helper.log")" 1
matches 'the kernel says it, too' "$(dmesg)" "[0-9]+:[0-9]+: slot $((first_bad + 3)) of cache [0-9]+ cannot be read and is out of service"
kill_helper
check 'a helper that starts now' start "$DISK/c4" --cache-device /dev/mapper/c
is 'hears of them from the kernel' "$(helper_stat 'caches[0].retired')" 8
check 'small direct reads are right' direct 4K

flakey() { dmsetup targets | grep -q flakey || modprobe dm-flakey; }
# All of it is bad: an error in bounded time, and what comes after goes on when the device is well again.
must swap_cache '0 16384 error'
fails_in_time() { timeout 100 dd if=/dev/mapper/t of=/dev/null bs=64K iflag=direct; [ $? = 1 ]; }
check 'a cache that fails as a whole is an error in the end' fails_in_time
check 'which is counted' test "$(errors)" -gt 0
is 'but takes no slot out of service' "$(dm_status t | cut -d' ' -f10)" 8
if flakey; then
	# Whatever is written cannot be read: a slot for each try, and no more tries than are allowed.
	if swap_cache '0 16384 flakey /dev/ram1 0 0 1 1 error_reads'; then
		retired=$(helper_stat 'caches[0].retired')
		check 'nor does a cache that takes everything and gives nothing' fails_in_time
		check 'turn for ever' test "$(helper_stat 'caches[0].retired')" -le $((retired + 12))
	else
		dmsetup resume c
	fi
fi
must swap_cache "$linear"
check 'the device is well again, and reads are right' same
dmsetup remove t
stop_helper
check 'after the last detach all slots count again' start "$DISK/c4" --cache-device /dev/mapper/c
check 'creates a device' create /dev/mapper/c
check 'every read is right' same
is 'none is retired' "$(helper_stat 'caches[0].retired')" 0
dmsetup remove t
stop_helper

# A device that gives what it has and takes nothing.
must flakey
readable() { # of the device's pieces: "right", "wrong", "failed" with their numbers, those that are not 0
	drop_caches
	timeout 100 "$PYTHON" - "$DISK/data" <<-'PY'
	import collections, mmap, os, sys
	want, seen = open(sys.argv[1], "rb").read(), collections.Counter()
	fd, buf = os.open("/dev/mapper/t", os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 65536)
	for at in range(0, len(want), 65536):
	    try:
	        n = os.preadv(fd, [buf], at)
	        seen["right" if n and buf[:n] == want[at:at + n] else "wrong"] += 1
	    except OSError:
	        seen["failed"] += 1
	print(*(f"{k} {n}" for k, n in sorted(seen.items())))
	PY
}
settled() { [ "$(helper_stat 'jobs == 0 and (.helper.caches[0] | .durable == .present and .present > 0)')" = true ]; }
begin() { dd if=/dev/mapper/t of=/dev/null bs=64K count=1 iflag=direct status=none && wait_for 20 settled; }
must dd if=/dev/zero of=/dev/ram1 bs=1M count=8 oflag=direct status=none
check 'the helper takes the sound device' start "$DISK/c7" --cache-device /dev/mapper/c
check 'creates a device' create /dev/mapper/c
check 'reads the first of it' begin
cached=$(helper_stat 'caches[0].present')
must swap_cache '0 16384 flakey /dev/ram1 0 0 1 1 error_writes'
matches 'what is cached is read when the device takes no more writes' "$(readable)" '^failed [0-9]+ right [0-9]+$'
fetched=$(counter bytes_fetched)
matches 'and again' "$(readable)" '^failed [0-9]+ right [0-9]+$'
is 'nothing is fetched that could not be kept' "$(counter bytes_fetched)" "$fetched"
is 'nothing was evicted, no slot retired' "$(helper_stat 'caches[0] | [.present, .retired] | join(" ")')" "$cached 0"
matches 'status says what to do' "$(helper_stat 'caches[0].trouble')" \
	'refuses writes: check it, and whether the file system behind it is read-only'
must swap_cache "$linear"
check 'the device is well again, and reads are right' same
is 'which status says' "$(helper_stat 'caches[0].trouble')" ''
dmsetup remove t
stop_helper
dmsetup remove c

# A file system that becomes read-only while its cache is in use, as its journal could not be written. What ext4 gives then
# depends on the kernel: 6.1 reads on and writes over what there was, 6.12 does neither.
linear="0 $(blockdev --getsz /dev/ram2) linear /dev/ram2 0"
must dmsetup create f --table "$linear"
must mkfs.ext4 -q -m 0 -E lazy_itable_init=1 /dev/mapper/f
mkdir -p "$WORK/fs"; must mount -o errors=remount-ro /dev/mapper/f "$WORK/fs"
check 'the helper starts on a sound file system' start "$WORK/fs/c" --cache-size-mb 16
cache=$(helper_stat cache_device)
check 'creates a device' create "$cache"
check 'reads the first of it' begin
cached=$(helper_stat 'caches[0].present')
must swap f "${linear/linear/flakey} 0 1 1 error_writes"
touch "$WORK/fs/x"; sync -f "$WORK/fs" 2>/dev/null
must swap f "$linear"
check 'the file system is read-only' not touch "$WORK/fs/y"
can_read() { dd if="$WORK/fs/c/cache.img" of=/dev/null bs=64K count=2 iflag=direct status=none 2>/dev/null; }
seen=$(readable)
note "reads: $seen" "trouble: $(helper_stat 'caches[0].trouble')"
if can_read; then
	matches 'what the file system gives is read' "$seen" '^(failed [0-9]+ )?right [0-9]+$'
else
	matches 'reads end when it gives nothing' "$seen" '^failed [0-9]+$'
fi
check 'again in bounded time' readable
matches 'status says what to do' "$(helper_stat 'caches[0].trouble')" \
	'refuses writes: check it, and whether the file system behind it is (full or )?read-only'
dmsetup remove t
check 'the helper ends' stop_helper
losetup -d "$cache"
umount "$WORK/fs"
fsck.ext4 -fy /dev/mapper/f > /dev/null 2>&1
must mount -o errors=remount-ro /dev/mapper/f "$WORK/fs"
check 'it starts on the mended one' start "$WORK/fs/c" --cache-size-mb 16
cache=$(helper_stat cache_device)
check 'creates a device' create "$cache"
check 'every read is right' same
note "restored $(counter restored) of $cached, rotten $(counter rotten)"
check 'what was durable came back' test "$(($(counter restored) + $(counter rotten)))" -ge "$cached"
is 'nothing is wrong with it' "$(helper_stat 'caches[0] | .trouble, .retired' | tr '\n' ' ')" ' 0 '
dmsetup remove t
stop_helper
losetup -d "$cache"
umount "$WORK/fs"
dmsetup remove f

# A disk with a medium error, which it tells in an interrupt. A read that must not wait does not, read-ahead changes nothing.
nowait() { # reads every 4 KiB so; prints what came beside data
	"$PYTHON" - <<-'PY'
	import errno, mmap, os
	fd, buf, seen = os.open("/dev/mapper/t", os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4096), set()
	for at in range(0, os.lseek(fd, 0, os.SEEK_END), 4096):
	    try:
	        os.preadv(fd, [buf], at, os.RWF_NOWAIT)
	    except OSError as e:
	        seen.add(errno.errorcode[e.errno])
	print(*sorted(seen))
	PY
}
must modprobe sd_mod; must modprobe scsi_debug dev_size_mb=10 medium_error_start=$((128 * 9)) medium_error_count=$((128 * 8))
wait_for 20 test -b /dev/sda || die 'no disk of scsi_debug'
check 'the helper takes a disk' start "$DISK/c5" --cache-device /dev/sda
check 'creates a device' create /dev/sda
check 'every read is right before' same
check 'and again' direct 4K
is 'they needed no retry' "$(helper_stat 'caches[0].retired')" 0
echo 2 > /sys/bus/pseudo/drivers/scsi_debug/opts # slots 8 to 15
is 'reads that must not wait end with EAGAIN' "$(nowait)" EAGAIN
check 'every read is right though' same
matches 'its slots were retired' "$(helper_stat 'caches[0].trouble')" '^slot ([89]|1[0-5]) cannot be read, [1-8] in all'
is 'no read failed' "$(errors)" 0
dmsetup remove t
stop_helper
must modprobe -r scsi_debug

# A file system with room for some 30 of the image's 40 chunks.
must mkfs.ext4 -q -m 0 -O ^has_journal -E lazy_itable_init=1 /dev/ram2
mkdir -p "$WORK/small"; must mount /dev/ram2 "$WORK/small"
defer umount "$WORK/small"
mkdir "$WORK/small/c"
check 'the helper starts on a file system that will be full' start "$WORK/small/c" --cache-size-mb 128
free=$(df --output=avail -k "$WORK/small" | tail -1)
must fallocate -l $((free - 2000))K "$WORK/small/filler"
cache=$(helper_stat cache_device)
check 'creates a device' create "$cache"
check 'every read is right though it is full' same
is 'none failed' "$(counter fails)" 0
check 'it really was full' test "$(counter retired)" -gt 0
check 'and again, with evictions' same
is 'none failed again' "$(counter fails)" 0
rm "$WORK/small/filler"
dmsetup remove t
stop_helper
losetup -d "$cache"
for bs in 1M 1K; do dd if=/dev/zero of="$WORK/small/filler$bs" bs=$bs status=none 2>/dev/null; done
refused() { # COMMAND...: it ends with 1, in time; its words are in $WORK/refused
	timeout 20 "$@" > "$WORK/refused" 2>&1
	[ $? = 1 ]
}
check 'no cache begins on a full one' refused "$BIN/fastoci-helperd" --cache-dir "$WORK/small/c2" --cache-size-mb 16
matches 'the message names place and reason' "$(cat "$WORK/refused")" "error: $WORK/small/c2.*: No space left on device"
rm -r "$WORK"/small/*

# A file system that came up read-only, as after an error.
check 'the helper makes a cache on a sound file system' start "$WORK/small/c" --cache-size-mb 16
cache=$(helper_stat cache_device)
stop_helper
losetup -d "$cache"
must mount -o remount,ro "$WORK/small"
check 'a helper does not start on it' refused "$BIN/fastoci-helperd" --cache-dir "$WORK/small/c" --cache-size-mb 16
matches 'the message names the file and the reason' "$(cat "$WORK/refused")" "error: .*$WORK/small/c/.*: Read-only file system"
must dd if=/dev/zero of=/dev/ram1 bs=1M count=8 oflag=direct status=none
check 'with a device of its own it does' start "$WORK/small/c" --cache-device /dev/ram1
check 'creates a device' create /dev/ram1
check 'every read is right' same
matches 'and says what it cannot keep' "$(helper_stat 'caches[0].trouble')" \
	'cache database: .*: the cache will not outlive a restart of the helper: repair it'
dmsetup remove t
stop_helper
must mount -o remount,rw "$WORK/small"
check 'writable, it is used again' start "$WORK/small/c" --cache-size-mb 16
cache=$(helper_stat cache_device)
check 'creates a device' create "$cache"
check 'every read is right' same

# A superblock of another geometry. A file of the helper's own is made anew, but never below a table.
put_superblock() { # FILE CHUNK_SHIFT SLOTS [VERSION]
	"$PYTHON" - "$lib" "$@" <<-'PY'
	import sys
	sys.path.insert(0, sys.argv[1])
	from metaimage import CacheSb
	sb = CacheSb(int(sys.argv[4]), int(sys.argv[3]))
	sb.version = int((sys.argv[5:] or ["1"])[0])
	with open(sys.argv[2], "r+b") as f:
	    f.write(bytes(sb))
	PY
	sync
	blockdev --flushbufs "$cache"
}
stop_helper
put_superblock "$cache" 16 100000
check 'a cache with too many slots below a table is refused' refused "$BIN/fastoci-helperd" --cache-dir "$WORK/small/c"
matches 'the message says what to do' "$(cat "$WORK/refused")" 'slots lie outside of the device: .*busy: detach all images'
dmsetup remove t
check 'without one it is made anew' start "$WORK/small/c"
matches 'which is told' "$(cat "$WORK/helper.log")" 'slots lie outside of the device: made a new cache: what .* is fetched again'
check 'creates a device' create "$cache"
check 'every read is right' same
dmsetup remove t
stop_helper
losetup -d "$cache"
cache=/dev/ram1
put_superblock /dev/ram1 16 10 2
check 'a device of another version is refused' refused "$BIN/fastoci-helperd" --cache-dir "$DISK/c6" --cache-device /dev/ram1
matches 'the message says what to do' "$(cat "$WORK/refused")" '/dev/ram1: cache: unknown version 2: give another device, or clear'
put_superblock /dev/ram1 18 12
check 'one with larger chunks and fewer slots is taken' start "$DISK/c6" --cache-device /dev/ram1
check 'creates a device' create /dev/ram1
check 'every read is right' same
is 'in its geometry' "$(helper_stat 'caches[0].nr_slots')" 12
dmsetup remove t
stop_helper

# The machine's root, an overlay on tmpfs: before 6.6 it takes O_DIRECT and then fails every read.
check 'the helper starts over an overlay' start /var/tmp/c --cache-size-mb 16
cache=$(helper_stat cache_device)
check 'creates a device' create "$cache"
check 'every read is right there' same
is 'none failed there' "$(counter fails)" 0
dmsetup remove t
stop_helper
losetup -d "$cache"

# A device that holds something else is left alone.
must mkfs.ext4 -q -F /dev/ram1
sum=$(sha256sum < /dev/ram1)
check 'a file system is not taken for a cache' refused "$BIN/fastoci-helperd" --cache-dir "$DISK/c3" --cache-device /dev/ram1
matches 'the message names the device and the reason' "$(cat "$WORK/refused")" '/dev/ram1: .*(superblock|blank)'
is 'and nothing was written to it' "$(sha256sum < /dev/ram1)" "$sum"
umount "$WORK/small"
check 'nothing is left' nothing_left
finish
