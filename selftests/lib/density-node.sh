#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs in the machine of bench-density: STORE IMAGES CONTAINERS DEVICES. Prints lines of JSON.
#   attach   IMAGES different images by `fastoci attach`, one after the other: seconds, and memory of kernel and helper for each
#   storm    CONTAINERS containers of one image, and of as many images, at the same time: seconds until each has read its file
#   devices  DEVICES devices of one image, each by its own `fastoci attach`
store=$1 nr_images=$2 nr_containers=$3 nr_devices=$4
# shellcheck source=selftests/lib/umlnode.sh
. "$(dirname "$0")/umlnode.sh"
many=$REGISTRY/many

kernel_bytes() { drop_caches; awk '/^(Slab|VmallocUsed|Percpu):/ { kib += $2 } END { printf "%d", kib * 1024 }' /proc/meminfo; }
helper_bytes() { # of the helper and the processes that it has started
	local pid kib=0
	for pid in $helper_pid $(cat /proc/"$helper_pid"/task/*/children); do
		kib=$((kib + $(awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup")))
	done
	echo $((kib * 1024))
}
attach_all() { # FIRST END REFERENCE [NAME]: REFERENCE with the number added, under NAME with the number added
	local i
	for ((i = $1; i < $2; i++)); do must fastoci -q attach "${3//%/$i}" ${4:+--name "$4$i"}; done
}
attach() {
	local kernel helper begin
	attach_all 0 1 "$many:fast%" # whatever is made once, is
	kernel=$(kernel_bytes) helper=$(helper_bytes)
	begin=$EPOCHREALTIME
	attach_all 1 $((nr_images + 1)) "$many:fast%"
	echo "{\"attach_${nr_images}_s\": $(seconds "$begin" "$EPOCHREALTIME")}" >&4
	echo "{\"attached_kernel_bytes\": $((($(kernel_bytes) - kernel) / nr_images))}" >&4
	echo "{\"attached_helper_bytes\": $((($(helper_bytes) - helper) / nr_images))}" >&4
}
devices() {
	local begin=$EPOCHREALTIME
	attach_all 0 "$nr_devices" "$many:fast0" d
	echo "{\"attach_${nr_devices}_s\": $(seconds "$begin" "$EPOCHREALTIME")}" >&4
	[ "$(dmsetup ls | grep -c .)" -ge "$nr_devices" ] || die "$(dmsetup ls | wc -l) devices"
}
run_one() { # NUMBER IMAGE
	ctr run --snapshotter fastoci -d "$2" "c$1" /bin/sh -c 'sha256sum < /data/file > /tmp/sum; exec sleep 1000000'
}
sums() { cat "$SNAP_ROOT"/snapshots/*/fs/tmp/sum; }
all_read() { [ "$(sums | wc -l)" = "$nr_containers" ]; }
# storm KEY IMAGE: with % for the number
storm() {
	local i begin=$EPOCHREALTIME
	for ((i = 0; i < nr_containers; i++)); do run_one "$i" "${2//%/$i}" & done
	wait_for 600 all_read || die "$(sums | wc -l) of $nr_containers have read their file"
	echo "{\"$1\": $(seconds "$begin" "$EPOCHREALTIME")}" >&4
	[ "$(sums | sort -u | wc -l)" = "$3" ] || die "$(sums | sort | uniq -c)"
	for ((i = 0; i < nr_containers; i++)); do remove_app "c$i"; done
}
pull_all() { local i; for ((i = 0; i < nr_containers; i++)); do must rpull "$many:fast$i"; done; }

start_registry "$store"
fresh_node
pull_all
storm "storm_${nr_containers}_s" "$many:fast0" 1
storm "storm_${nr_containers}_images_s" "$many:fast%" "$nr_containers"
fresh_node
attach
devices
finish
