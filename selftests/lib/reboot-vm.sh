#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# reboot-vm.sh LIFE: the lives of the machine that selftests/reboot boots; its disk stays. In the first one an image is made,
# attached and downloaded; in the second there is no registry; in the third neither, and the assembled meta image has rotted.
# The first two end with the image attached, as a machine does that is switched off.
# lives: 3
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
CASE=reboot-life-$1
image=$REGISTRY/reboot:fastoci state=/var/lib/fastoci mnt=$WORK/mnt
all_there() { [ "$(helper_stat 'images[0] | .chunks > 0 and .chunks == .present')" = true ]; }
durable() { [ "$(helper_stat 'caches[0] | .present > 10 and .durable == .present')" = true ]; }
same() { drop_caches; for f in "$DISK"/files/*; do cmp "$f" "$mnt/${f##*/}" || return 1; done; }
restore() { fastoci restore > "$WORK/said" 2>&1; }
load_module
mkdir -p "$DISK" $state
blkid /dev/vda > /dev/null || must mkfs.ext4 -q /dev/vda
must mount /dev/vda "$DISK"
defer umount "$DISK"
mkdir -p "$DISK/state"
must mount --bind "$DISK/state" $state
defer umount $state
cat > "$WORK/config.json" <<-JSON
	{"download": {"enable": true, "delay": 0, "delayExtra": 0}}
JSON
helper_options=(--cache-size-mb 64 --config "$WORK/config.json" --decoders 4)
case $1 in
1)
	start_registry
	must "$PYTHON" "$SELFTESTS/lib/mkpatches.py" "$DISK/files" "$DISK/layer.tar.gz" 3 $((1536 * 1024))
	must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" latest "$DISK/layer.tar.gz"
	push_image "$DISK/layout:latest" reboot:latest
	convert reboot latest fastoci
	start_helper
	check 'attach' fastoci -q attach "$image" --plain --mount "$mnt" || die 'nothing to read'
	check 'all of it is downloaded' wait_for 60 all_there
	matches 'status says that it needs nothing any more' "$(fastoci status)" 'all cached: needs neither registry nor helper'
	check 'and durable' wait_for 20 durable
	stop_registry
	stop_helper
	check 'without registry and helper all is readable' same
	sync
	;;
2)
	start_helper
	check 'no registry answers' not registry_alive
	check 'restore needs none' restore || die "$(cat "$WORK/said")"
	check 'all is readable' same
	check 'from verified slots' test "$(counter restored)" -gt 10
	is 'nothing was fetched' "$(counter bytes_fetched)" 0
	is 'no read failed' "$(counter fails)" 0
	sync
	;;
3)
	meta=$(find $state -type f -size +64k | head -n 1)
	note "the assembled meta image: $meta, $(stat -c %s "$meta") bytes"
	at=$(($(stat -c %s "$meta") * ${REBOOT_FLIP:-3} / 7))
	byte=$(od -An -tu1 -j $at -N 1 "$meta")
	printf "\\x$(printf %x $((byte ^ 16)))" | dd of="$meta" bs=1 seek=$at conv=notrunc status=none
	start_helper
	check 'an assembled meta image that has rotted is not attached' not restore
	is 'nor mounted' "$(findmnt -n "$mnt")" ''
	matches 'and the message names it' "$(cat "$WORK/said")" "$meta has changed since it was attached: its sha256 differs"
	stop_helper
	losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"
	umount $state
	check 'nothing is left' nothing_left
	;;
esac
finish
