#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The main job: an unmodified image that has all that layers can have, from a registry, converted, attached, mounted, read
# through misses; read again with no helper; read while the helper is killed; and made a device of by hand.
# once: it is about user space; the kernel's cases, helperd and reboot are for each kernel
# vm: -m 2G
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry skopeo e2fsck jq "$BIN/fastoci" "$BIN/convertor" "$BIN/fastoci-helperd"

layers=("$SELFTESTS"/fixtures/layers/layer{1,2}.tar.gz "$WORK/layer3.tar") # the last one is not compressed
image=$REGISTRY/nasty:latest_fastoci dm=fastoci-nasty-latest_fastoci mnt=$WORK/mnt
tree() { "$PYTHON" "$SELFTESTS/lib/treelist.py" "$1" > "$2"; }
misses() { dm_status $dm | cut -d' ' -f5; }
cold() { drop_caches; blockdev --flushbufs /dev/mapper/$dm; }
same_tree() { # same_tree DIR: it is that of the independent unpacker
	cold && tree "$1" "$WORK/got" && diff "$WORK/wanted" "$WORK/got" > "$WORK/diff" || { head -n 20 "$WORK/diff"; return 1; }
}

load_module
gzip -dc "$SELFTESTS/fixtures/layers/layer3.tar.gz" > "$WORK/layer3.tar"
start_registry
echo '{"exporterConfig": {"enable": true}}' > "$WORK/config.json"
mkdir -p "$DISK/wanted" "$DISK/layout"
must "$PYTHON" "$SELFTESTS/lib/applylayers.py" "$DISK/wanted" "${layers[@]}"
tree "$DISK/wanted" "$WORK/wanted"
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" latest "${layers[@]}"
push_image "$DISK/layout:latest" nasty:latest
before=$(curl -s "http://$REGISTRY/v2/nasty/manifests/latest" -H 'Accept: application/vnd.oci.image.manifest.v1+json' | sha256sum)
convert nasty latest latest_fastoci
is 'the original image is byte for byte what it was' \
	"$(curl -s "http://$REGISTRY/v2/nasty/manifests/latest" -H 'Accept: application/vnd.oci.image.manifest.v1+json' | sha256sum)" "$before"
is 'its layers are two of gzip and a plain tar' "$(curl -s "http://$REGISTRY/v2/nasty/manifests/latest_fastoci" \
	-H 'Accept: application/vnd.docker.distribution.manifest.v2+json' |
	jq -r '[.layers[].annotations["containerd.io/snapshot/overlaybd/turbo-oci/target-media-type"] | sub(".*[.]"; "")] | join(" ")')" \
	'tar+gzip tar+gzip tar'
start_helper --config "$WORK/config.json"
check 'attach and mount' fastoci attach "$image" --plain --mount "$mnt"
largest=$(cd "$mnt" && find . -xdev -type f -printf '%s %p\n' | sort -rn | sed -n '1s/^[0-9]* \.//p')
check 'a cold read under fastoci trace' fastoci trace nasty-latest_fastoci -o "$WORK/start.html" --json -- cp "$mnt$largest" /dev/null
cp "$WORK/check.out" "$WORK/trace.json"
check 'its page shows the file that waited' "$PYTHON" "$SELFTESTS/lib/tracepage.py" "$WORK/start.html" "$largest"
# Readers round up to pages.
is 'each byte of it was read once' "$(jq .read_bytes "$WORK/trace.json")" $(($(stat -c %s "$mnt$largest") + 4095 & ~4095))
cp "$WORK/start.html" "$SELFTEST_FILES/" # for selftests/check, which has a browser
is 'nothing is missing in it' "$(jq -c '[.lost, .notes, .missed > 0, .chunks > 0, .requests > 0]' "$WORK/trace.json")" '[0,[],true,true,true]'
is 'and nothing is left in tracefs' "$(ls /sys/kernel/tracing/instances)" ''
check 'top says what is local' jq -e '.images[0] | .name == "nasty-latest_fastoci" and .present > 0 and .fetched_bytes > 0 and .misses > 0' \
	<(fastoci top --once --json)
check 'on a terminal, too, and leaves it as it was' "$PYTHON" "$SELFTESTS/lib/topscreen.py" nasty-latest "$BIN/fastoci" top
check 'every path, type, mode, owner, time, size, content, xattr, device and link is right' same_tree "$mnt"
check 'behind the ends of files are zeros' "$PYTHON" "$SELFTESTS/lib/eofzeros.py" "$mnt"
first=$(misses)
check 'that took misses' test "$first" -gt 0
check 'e2fsck finds nothing' e2fsck -fn /dev/mapper/$dm

curl -s http://127.0.0.1:9863/metrics > "$SELFTEST_FILES/metrics" # for promtool
is 'misses took time in each phase' "$(fastoci status --json | jq '[.helper.latency.phases[].sum_ns > 0] | all')" true
check 'prefetch' fastoci prefetch nasty-latest_fastoci --json
is 'has brought what nobody read' "$(jq -c '[.chunks == .present, .running]' "$WORK/check.out")" '[true,false]'
check 'and says so' grep -qE '^nasty-latest_fastoci: ([0-9]+) of \1 chunks' <(fastoci prefetch nasty-latest_fastoci)
is 'of another image it is not found' "$(fastoci prefetch nobody > "$WORK/said" 2>&1; echo $?)" 3
fastoci events --follow --json > "$WORK/events" 2> "$WORK/events.err" &
follower=$!
defer kill $follower
told() { jq -se "[.[] | select($1)] | length > 0" "$WORK/events"; }
check 'events tell of the attach' wait_for 20 told '.event == "attach" and .image == "nasty-latest_fastoci"'
check 'SIGTERM ends the helper cleanly' stop_helper
check 'who follows sees that' wait_for 20 told '.event == "stop"'
check 'the tree is right again without a helper' same_tree "$mnt"
is 'and without a miss' "$(misses)" "$first"
check 'detach' fastoci detach nasty-latest_fastoci
check 'no loop device of it is left' wait_for 30 not grep -q meta.img <(losetup -a)

# A cache that is smaller than the image, so that chunks go on missing and being evicted.
losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")" && rm -rf "$CACHE_DIR"
helper_options=(--cache-size-mb 6 --decoders 3)
start_helper
check 'attach with a small cache' fastoci attach "$image" --plain --mount "$mnt"
"$PYTHON" "$SELFTESTS/lib/readers.py" "$mnt" "$WORK/wanted" 4 "$WORK/stop" > "$WORK/readers" 2>&1 &
readers=$!
missed_since() { [ "$(misses)" -gt "$1" ]; }
for round in 1 2 3 4; do
	check "readers miss before kill $round" wait_for 60 missed_since "$(misses)"
	kill_helper
	start_helper
done
touch "$WORK/stop"
check 'four kills amid reads: nothing failed, all content right' wait $readers
note "$(tail -n 3 "$WORK/readers")"
starts() { [ "$(jq -s '[.[] | select(.event == "start")] | length' "$WORK/events")" -ge 5 ]; }
check 'who followed saw the next helpers' wait_for 20 starts
check 'detach that' fastoci detach nasty-latest_fastoci
check 'and this' wait_for 20 told '.event == "detach" and .image == "nasty-latest_fastoci"'
check 'events without --follow end' test -n "$(timeout 20 "$BIN/fastoci" events)"
kill $follower

# As README has it.
check 'assemble' fastoci assemble "$image" --plain -o "$DISK/demo.img"
loop=$(losetup -f --show -r -b 512 --direct-io=on "$DISK/demo.img")
sectors=$(od -An -tu8 -j64 -N8 "$DISK/demo.img")
cache=$(losetup -nO NAME -j "$CACHE_DIR/cache.img")
check 'a device by hand' dmsetup create $dm --uuid FASTOCI-demo --readonly \
	--table "0 $((sectors)) fastoci $loop $cache 1 hold"
check 'mounted by hand' mount -o ro,noload,errors=continue /dev/mapper/$dm "$mnt"
check 'has the right tree' same_tree "$mnt"
umount "$mnt"
check 'removed by hand' dmsetup remove $dm
losetup -d "$loop"
check 'the helper ends' stop_helper
losetup -d "$cache"
stop_registry
check 'nothing is left' nothing_left
finish
