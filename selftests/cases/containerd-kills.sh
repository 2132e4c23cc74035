#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Containers read while snapshotter, helper, both or containerd are killed with -9 at random moments: no error, no wrong byte,
# and what a kill left behind goes. KILLS_POINTS: rounds (2: both, containerd; from 4 on each of them); KILLS_SEED.
# more: it takes minutes
# once: what it tests does not depend on the kernel
# One CPU: QEMU now and then runs code that the kernel patches for the first memory cgroup on the other one (int3).
# vm: -m 3G -c 1
# timeout: 900
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/containerd.sh
. "$SELFTESTS/lib/containerd.sh"
requires docker-registry skopeo jq containerd ctr runc setfattr "$BIN/fastoci-snapshotter"

rounds=${KILLS_POINTS:-2} seed=${KILLS_SEED:-15}
RANDOM=$seed
note "seed $seed"
image=$REGISTRY/app
# A cache that does not hold all that they read.
helper_options=(--cache-size-mb 8)
# What a container does, without a page cache: /tmp/rounds gets a line a round, /tmp/wrong names what was not as it should be.
# shellcheck disable=SC2016 # for the container's shell
reading='n=0; while :; do
	file=/data/$((n % 2))
	sum=$(dd if=$file bs=256k iflag=direct 2>/dev/null | sha256sum)
	grep -q "^${sum%% *}  $file" /etc/sums || echo $n $file >> /tmp/wrong
	n=$((n + 1)); echo $n >> /tmp/rounds
done'
turns() { for file in "$SNAP_ROOT"/snapshots/*/fs/tmp/rounds; do wc -l < "$file"; done | sort -n | head -n 1; }
# Each reader has begun and ended a round since $before.
read_on() { [ "$(turns)" -gt $((before + 1)) ]; }
began() { [ "$(ls "$SNAP_ROOT"/snapshots/*/fs/tmp/rounds | wc -l)" = 2 ]; }
wrong() { cat "$SNAP_ROOT"/snapshots/*/fs/tmp/wrong 2>/dev/null; }
# Has the snapshotter always at something.
churn() {
	until [ -e "$WORK/stop" ]; do
		ctr snapshots --snapshotter fastoci prepare churn "$chain"
		ctr snapshots --snapshotter fastoci rm churn
	done
}

load_module
modprobe overlay
app_registry
start_helper
start_snapshotter
start_containerd
for tag in fast native; do check "$tag: rpull" rpull "$image:$tag"; done
for tag in fast native; do
	check "$tag: a container reads" ctr run --snapshotter fastoci -d "$image:$tag" $tag /bin/sh -c "$reading"
done
# What is killed and started again goes before what reads.
ctr task ls | awk 'NR > 1 { print $2 }' | xargs renice -n 19 -p > /dev/null
check 'both have read' wait_for 300 began
chain=$(chain_of "$image:fast")
churn > "$WORK/churn.log" 2>&1 &
churning=$!
renice -n 19 -p $churning > /dev/null
for ((round = 1; round <= rounds; round++)); do
	before=$(turns)
	which=$((round <= 4 ? round - 1 : RANDOM % 4))
	sleep 0.$((RANDOM % 9)) # waits for nothing: the kill comes anywhere in what they are at
	case $which in
	0) what='both' && kill_snapshotter && kill_helper && start_snapshotter && start_helper ;;
	1) what='containerd' && kill_containerd && start_containerd ;;
	2) what='the snapshotter' && kill_snapshotter && start_snapshotter ;;
	3) what='the helper' && kill_helper && start_helper ;;
	esac
	check "round $round, $what killed: both read on" wait_for 300 read_on
done
touch "$WORK/stop"
wait $churning
is 'no read failed, no byte was wrong' "$(wrong)" ''
is 'both still run' "$(ctr task ls | grep -c RUNNING)" 2
note "the readers came round $(turns) times at least"
for tag in fast native; do check "$tag: removed" remove_app $tag; done
ctr snapshots --snapshotter fastoci rm churn > /dev/null 2>&1
check 'the images are removed' remove_images "$image:fast" "$image:native"
nothing_of_ours
finish
