#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# reboot-containerd-vm.sh LIFE: as reboot-vm.sh, with containers. In the first life three run, of a FastOCI, an overlaybd and an
# ordinary image, and have read all; it ends as they run. In the second there is no registry, and each of them starts again.
# lives: 2
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/containerd.sh
. "$SELFTESTS/lib/containerd.sh"
CASE=reboot-containerd-life-$1
image=$REGISTRY/app
declare -A ports=([fast]=8001 [native]=8002 [latest]=8003)
durable() { [ "$(helper_stat 'caches[0] | .present > 10 and .durable == .present')" = true ]; }
answers_to() { [ "$(curl -s -m 20 "http://127.0.0.1:${ports[$1]}/")" = 'the answer' ]; } # NAME
right() { # NAME
	drop_caches
	[ "$(ctr task exec --exec-id "r$RANDOM" "$1" /bin/sha256sum -c /etc/sums | grep -c OK)" = 4 ]
}
load_module
modprobe overlay
mkdir -p "$DISK"
blkid /dev/vda > /dev/null || must mkfs.ext4 -q /dev/vda
must mount /dev/vda "$DISK"
defer umount "$DISK"
case $1 in
1)
	app_registry
	start_helper
	start_snapshotter
	start_containerd
	for tag in fast native latest; do
		check "$tag: rpull" rpull "$image:$tag"
		check "$tag: a container" ctr run --snapshotter fastoci --net-host -d "$image:$tag" $tag \
			/bin/httpd -f -p ${ports[$tag]} -h /www
		check "$tag: answers" wait_for 60 answers_to $tag
		check "$tag: has the right bytes" right $tag
		check "$tag: writes" ctr task exec --exec-id w $tag /bin/sh -c 'echo mine > /tmp/mine'
	done
	check 'what was read is durable' wait_for 30 durable
	sync
	;;
2)
	start_helper
	start_snapshotter
	start_containerd
	check 'no registry answers' not registry_alive
	for tag in fast native latest; do
		check "$tag: the container starts again" ctr task start -d $tag
		check "$tag: it answers" wait_for 60 answers_to $tag
		check "$tag: has the right bytes" right $tag
		is "$tag: and what it wrote" "$(ctr task exec --exec-id m $tag /bin/cat /tmp/mine)" mine
		check "$tag: is removed" remove_app $tag
	done
	is 'no read failed' "$(counter fails)" 0
	check 'the images are removed' remove_images "$image:fast" "$image:native" "$image:latest"
	nothing_of_ours
	;;
esac
finish
