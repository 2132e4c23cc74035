#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Pods, as the kubelet asks for them: an ordinary image whose FastOCI artifact is found as a referrer, with and without
# credentials; logs, exec, stats, image volumes; containerd restarted. PODS_POINTS: rounds of kills while a container reads (0).
# once: what it tests does not depend on the kernel
# more: it takes three minutes of a processor
# One CPU: QEMU now and then runs code that the kernel patches for the first memory cgroup on the other one (int3).
# vm: -m 3G -c 1
# timeout: 900
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/containerd.sh
. "$SELFTESTS/lib/containerd.sh"
requires docker-registry skopeo jq containerd ctr runc setfattr protoc "$BIN/fastoci-snapshotter"

name_space=k8s.io rounds=${PODS_POINTS:-0} image=$REGISTRY/pod other=127.0.0.1:5001/other:latest

load_module
modprobe overlay
app_registry
# The same registry behind a password.
"$PYTHON" -W ignore -c 'import crypt; print("user:" + crypt.crypt("secret", crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))' > "$WORK/htpasswd"
sed "s/addr: .*}/addr: 127.0.0.1:5001}/" "$WORK/registry.yml" > "$WORK/private.yml"
printf 'auth: {htpasswd: {realm: test, path: %s}}\n' "$WORK/htpasswd" >> "$WORK/private.yml"
docker-registry serve "$WORK/private.yml" > "$WORK/private.log" 2>&1 &
private=$!
defer kill $private
printf '{"auths": {"127.0.0.1:5001": {"auth": "%s"}}}' "$(printf user:secret | base64)" > "$WORK/auth.json"
# As `fastoci-snapshotter setup --cri` has it; the last table is that of containerd 2.x.
cat > "$WORK/cri.toml" <<TOML
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$REGISTRY/pause:1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "fastoci"
    disable_snapshot_annotations = false
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "fastoci"
  disable_snapshot_annotations = false
TOML
start_helper --credentials "$WORK/auth.json"
snapshotter_options=(--credentials "$WORK/auth.json" --metrics-port 9864)
start_snapshotter
start_containerd "$WORK/cri.toml"
start_cri
note "containerd $(containerd_version)"

check 'PullImage of an ordinary image' cri pull "$image:latest"
is 'its layers are taken by its artifact' "$(kinds)" '3 artifact'
check 'RunPodSandbox, of an ordinary image without one' cri pod web
pod=$(cat "$WORK/check.out")
check 'CreateContainer, StartContainer' cri run "$pod" web "$image:latest" /bin/httpd -f -p 8000 -h /www
web=$(cat "$WORK/check.out")
check 'it answers' wait_for 60 answers
note "fetched until the answer: $(counter bytes_fetched) of $(cat "$APP"/[123].tar.gz | wc -c) bytes"
cri exec "$web" /bin/sh -c 'cat /data/0 > /tmp/copy'
check 'a container that only writes to its log' cri run "$pod" job "$image:latest" /bin/echo 'a line of the log'
job=$(cat "$WORK/check.out")
check 'the log has it' wait_for 30 grep -q 'stdout F a line of the log' "$WORK/pods/job.log"
check 'it is removed' wait_for 60 cri rm "$job" # refused while containerd has not seen that it ended
is 'ExecSync' "$(cri exec "$web" /bin/cat /www/index.html)" 'the answer'
check 'its tree is that of the independent unpacker' same_image_tree "$image:latest" "$APP/wanted"

is 'with credentials: refused without' "$(cri pull $other 2>&1 | grep -oE '401|authorization|no basic auth' | head -1 | wc -l)" 1
check 'and pulled with them' cri pull $other user:secret
reference=$(cat "$WORK/check.out")
is 'by its artifact, too' "$(kinds)" '6 artifact 1 ordinary'
case $(containerd_version) in
1.* | 2.0.*) # They know no image volumes.
	check 'a container of it' cri run "$pod" private $other /bin/sleep 1000000
	root=/
	;;
*)
	check 'a container with it as a volume' cri run "$pod" "private=$reference" "$image:latest" /bin/sleep 1000000
	root=/volume
	;;
esac
private_container=$(cat "$WORK/check.out")
# shellcheck disable=SC2016 # for the container's shell
is 'has the right bytes' "$(cri exec "$private_container" /bin/sh -c \
	'cd "$0" && busybox sed "s|  /|  |" etc/sums | sha256sum -c' $root | grep -c 'OK$')" 4

# containerd measures every ten seconds.
imagefs() { cri imagefs | grep -qE '"bytes": [1-9]'; }
check 'ImageFsInfo knows how much images take' wait_for 60 imagefs
used() { [ "$(cri stats "$web" | jq .bytes)" -ge 4000000 ]; }
check 'ContainerStats tell what it wrote' wait_for 60 used

# Kills while a container reads.
reads_right() { cri exec "$web" /bin/sha256sum -c /etc/sums; }
reader() { until [ -e "$WORK/stop" ]; do reads_right || return 1; drop_caches; done; }
if [ "$rounds" != 0 ]; then
	reader > "$WORK/reader.log" 2>&1 &
	reading=$!
	for ((round = 1; round <= rounds; round++)); do
		kill_snapshotter
		start_snapshotter
		kill_helper
		start_helper --credentials "$WORK/auth.json"
		# containerd's client may still wait before it connects again.
		check "round $round of kills: a view can be had" wait_for 60 same_image_tree "$image:latest" "$APP/wanted"
	done
	touch "$WORK/stop"
	check 'the reader saw nothing of it' wait $reading
fi
stop_containerd
start_containerd "$WORK/cri.toml"
check 'containerd restarted: it answers' wait_for 60 answers
is 'and ExecSync' "$(cri exec "$web" /bin/cat /www/index.html)" 'the answer'

curl -s http://127.0.0.1:9864/metrics > "$SELFTEST_FILES/snapshotter-metrics" # for promtool

for container in "$web" "$private_container"; do check 'StopContainer, RemoveContainer' cri rm "$container"; done
check 'StopPodSandbox, RemovePodSandbox' cri rmp "$pod"
for name in $(cri images); do check "RemoveImage $name" cri rmi "$name"; done
collected() { ctr content prune references > "$WORK/prune.log" 2>&1; no_snapshots; }
wait_for 60 collected
kill $private
nothing_of_ours
finish
