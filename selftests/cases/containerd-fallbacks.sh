#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Ordinary images whose FastOCI artifact cannot be used, for each reason that there is: they come in the ordinary way, and
# journal and metric say why. A FastOCI or overlaybd image that policy refuses does not come at all.
# once: what it tests does not depend on the kernel
# more: it takes three minutes of a processor
# One CPU: QEMU now and then runs code that the kernel patches for the first memory cgroup on the other one (int3).
# vm: -m 3G -c 1
# timeout: 900
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/containerd.sh
. "$SELFTESTS/lib/containerd.sh"
requires docker-registry skopeo jq containerd ctr runc setfattr openssl "$BIN/fastoci-snapshotter"

small=$REGISTRY/small
fallbacks() { metric "fallbacks_total{reason=\"$1\"}"; } # REASON
# falls_back REASON WHAT IMAGE [COMMAND...]: COMMAND while the image is there
falls_back() {
	local before
	before=$(fallbacks "$1")
	check "$2: pulled" rpull "$3"
	is "$2: in the ordinary way" "$(kinds)" '3 ordinary'
	check "$2: the journal says why" said "$3 is handled in the ordinary way \($1\)"
	check "$2: a metric counts it" test "$(fallbacks "$1")" -eq $((${before:-0} + 1))
	[ $# = 3 ] || "${@:4}"
	check "$2: removed" remove_images "$3"
	wait_for 60 no_snapshots
}
it_runs() { # IMAGE
	check 'a container of it runs' run_app "$1" plain
	check 'it answers' wait_for 60 answers
	check 'and is removed' remove_app plain
}
swap_cache() { dmsetup suspend --nolockfs c && dmsetup reload c --table "$1" && dmsetup resume c; }
cache_refuses() { [ -n "$(printf '{"op": "cache"}\n' | "$PYTHON" -c 'import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect("/run/fastoci/control.sock")
s.sendall(sys.stdin.buffer.read())
print(json.loads(s.makefile().readline())["refuses"])')" ]; }

app_registry
echo full -1 > "$WORK/mode"
"$PYTHON" "$SELFTESTS/lib/faultproxy.py" 5001 5000 "$WORK/mode" > "$WORK/proxy.log" 2>&1 &
proxy=$!
defer kill $proxy
echo '{}' > "$WORK/node.json"
modprobe -a overlay dm-mod loop
start_snapshotter --referrers all --metrics-port 9864 --node-config "$WORK/node.json"
start_containerd

falls_back no_module 'without the module' "$small-module:latest" it_runs "$small-module:latest"
load_module
falls_back no_helper 'without a helper' "$small-helper:latest"

# The cache's device is gone when the image is to be attached.
truncate -s 64M "$DISK/device"
loop=$(loop_for "$DISK/device")
must dmsetup create c --table "0 131072 linear $loop 0"
helper_options=()
start_helper --cache-device /dev/mapper/c
must swap_cache '0 131072 error'
falls_back attach 'without the cache device' "$small-device:latest"
stop_helper
must wait_for 10 dmsetup remove c
losetup -d "$loop"

# A cache whose slots all hold what is pinned.
helper_options=(--cache-size-mb 2)
start_helper
check 'an image that the cache cannot hold is attached' fastoci -q attach "$REGISTRY/app:fast" --plain --mount "$WORK/pinned"
check 'and pinned' fastoci pin app-fast
for file in "$WORK"/pinned/data/*; do timeout 60 dd if="$file" of=/dev/null bs=64K iflag=direct 2> /dev/null; done
check 'until the cache is full' wait_for 30 cache_refuses
falls_back cache 'with a full cache' "$small-full:latest"
check 'unpinned' fastoci unpin app-fast
check 'and detached' fastoci -q detach "$WORK/pinned"
stop_helper
losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"
rm -r "$CACHE_DIR"
helper_options=(--cache-size-mb 64)
start_helper

falls_back no_ranges 'from a registry that serves no parts' 127.0.0.1:5001/small:latest
falls_back attach 'with a broken index' "$small-broken:latest"
# A file system that the kernel does not know.
mkdir -p /etc/modprobe.d
echo 'install erofs /bin/false' > /etc/modprobe.d/no-erofs.conf
modprobe -r erofs
falls_back attach 'with a file system that the kernel refuses' "$small-erofs:latest"

# A policy that nothing here fulfils: an artifact of no signature is not used, and an image that is lazy itself does not come.
openssl ecparam -genkey -name prime256v1 -noout 2> /dev/null | openssl ec -pubout -out "$WORK/key.pem" 2> /dev/null
printf '{"signatures": {"%s": "%s"}}' "$REGISTRY" "$WORK/key.pem" > "$WORK/node.json"
falls_back policy 'with an artifact that is not signed' "$small-policy:latest"
for tag in fast native mixed; do
	check "$tag: without a signature the pull fails" not rpull "$REGISTRY/app:$tag"
	matches "$tag: and the error says why" "$(cat "$WORK/check.out")" \
		"$REGISTRY/app@sha256:.*: no signature by a key of $WORK/key.pem"
done
check 'nothing of it stays' wait_for 60 no_snapshots
is 'nor does it come in another way' "$(fallbacks policy)$(ctr images ls -q)" 1
echo '{}' > "$WORK/node.json"

check 'with nothing in the way: pulled' rpull "$small:latest"
is 'by its artifact' "$(kinds)" '3 artifact'
check 'its tree is that of the independent unpacker' same_image_tree "$small:latest" "$APP/wanted.small"
check 'removed' remove_images "$small:latest"
kill $proxy
nothing_of_ours
finish
