# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# umlnode.sh - what the scripts of umlnode.py's machines begin with: lib.sh and containerd.sh, and a node that can be made anew.
# Results go to file descriptor 4, which was stdout; all else is for the log.
set -u
exec 4>&1 1>&2
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup /sys/fs/cgroup
[ -e /dev/pts/ptmx ] || { mkdir -p /dev/pts; mount -t devpts devpts /dev/pts; }
ip link set lo up
# shellcheck source=selftests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=selftests/lib/containerd.sh
. "$SELFTESTS/lib/containerd.sh"
helper_options=(--cache-size-mb 2048)
load_module
modprobe -q overlay

no_snapshots_at_all() { no_snapshots && [ -z "$(ls "$DISK/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots" 2> /dev/null)" ]; }
# fresh_node [options of the snapshotter]: all daemons, and none of them has anything. No container runs.
fresh_node() {
	if [ -n "${containerd_pid:-}" ]; then
		ctr images ls -q | while read -r name; do must ctr images rm --sync "$name"; done
		wait_for 60 no_snapshots_at_all || die 'snapshots are left'
		wait_for 60 no_dm_devices || die 'devices are left'
	fi
	stop_containerd
	stop_snapshotter
	stop_helper
	for loop in $(losetup -nO NAME -j "$CACHE_DIR/cache.img" 2> /dev/null); do losetup -d "$loop"; done
	rm -rf "$DISK"/{containerd,snapshotter,cache}
	start_helper
	start_snapshotter "$@"
	start_containerd
	drop_caches
}
seconds() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", b - a }'; }
