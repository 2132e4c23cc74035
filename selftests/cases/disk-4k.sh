#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A disk with 4 KiB logical blocks: refused as a cache device, fine under a cache file and under meta images, and doctor
# says what that costs.
# once: the cache's and meta image's alignment
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry skopeo e2fsck "$BIN/fastoci" "$BIN/convertor" "$BIN/fastoci-helperd"

layers=("$SELFTESTS"/fixtures/layers/layer{1,2,3}.tar.gz)
mnt=$WORK/mnt disk4k=$WORK/disk4k
cli() { fastoci --state-dir "$disk4k/images" "$@"; }
tree() { "$PYTHON" "$SELFTESTS/lib/treelist.py" "$1"; }
disk_is_there() { sdx=$(grep -ls scsi_debug /sys/block/sd*/device/model | cut -d/ -f4); [ -b "/dev/$sdx" ]; }
refused() { "$BIN/fastoci-helperd" --cache-device "$device" --cache-dir "$DISK/refused" > "$WORK/refused" 2>&1; [ $? = 1 ]; }
said() { grep -qE -- "$1" "$WORK/said" || { cat "$WORK/said"; return 1; }; }

load_module
modprobe scsi_debug sector_size=4096 dev_size_mb=192 delay=0 || die 'no scsi_debug'
must modprobe sd_mod
wait_for 20 disk_is_there || die 'no disk with 4 KiB blocks'
device=/dev/$sdx
is 'its logical blocks are 4 KiB' "$(blockdev --getss "$device")" 4096
start_registry
check 'as a cache device it is refused' refused
check 'with its block size' grep -q 'logical blocks of 4096 bytes, not 512' "$WORK/refused"

must mkfs.ext4 -q -O ^has_journal "$device"
mkdir -p "$disk4k" && must mount "$device" "$disk4k"
defer umount "$disk4k"
CACHE_DIR=$disk4k/cache helper_options=(--cache-size-mb 64)
start_helper
check 'the helper says that its cache runs buffered' grep -q 'runs buffered' "$WORK/helper.log"
cli doctor > "$WORK/said" 2>&1
is 'which is no problem for doctor' $? 0
check 'but a warning' said '^warning +the cache device /dev/loop.* runs buffered'
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" latest "${layers[@]}"
push_image "$DISK/layout:latest" nasty:latest
convert nasty latest latest_fastoci
cli attach "$REGISTRY/nasty:latest_fastoci" --plain --mount "$mnt" > "$WORK/said" 2>&1
is 'attach and mount' $? 0
check 'warns that the meta image runs buffered, too' said 'runs buffered'
mkdir -p "$DISK/wanted"
must "$PYTHON" "$SELFTESTS/lib/applylayers.py" "$DISK/wanted" "${layers[@]}"
tree "$DISK/wanted" > "$WORK/wanted"
for round in 'cold' 'from the cache'; do
	drop_caches
	tree "$mnt" > "$WORK/got"
	check "every file is right, $round" cmp "$WORK/got" "$WORK/wanted"
done
check 'detach' cli detach nasty-latest_fastoci
check 'the helper ends' stop_helper
must losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"
stop_registry
umount "$disk4k"
check 'nothing is left' nothing_left
finish
