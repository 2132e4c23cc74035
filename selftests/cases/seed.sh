#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fastoci seed: what one node has of its images, on another one that has no registry. Seeds that are damaged or lie, and imports
# that fail half-way, leave nothing.
# more: three nodes' lives, one after the other
# once: it is about user space
# timeout: 1800
# vm: -m 2G
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry skopeo jq "$BIN/fastoci" "$BIN/convertor" "$BIN/fastoci-helperd"

layers=("$SELFTESTS"/fixtures/layers/layer{1,2}.tar.gz)
image=$REGISTRY/nasty:latest_fastoci name=nasty-latest_fastoci mnt=$WORK/mnt
other=$REGISTRY/patches:latest_fastoci
seed=$DISK/seed state=/var/lib/fastoci/images
tree() { "$PYTHON" "$SELFTESTS/lib/treelist.py" "$1" > "$2"; }
all_there() { [ "$(fastoci status $name --json | jq '.chunks_cached == .chunks_total')" = true ]; }
same_tree() { # of the independent unpacker
	drop_caches
	tree "$mnt" "$WORK/got" && diff "$WORK/wanted" "$WORK/got" > "$WORK/diff" || { head -n 20 "$WORK/diff"; return 1; }
}
exits() { # exits CODE COMMAND...: it ends with that exit code
	local want=$1 got
	shift
	"$@" > "$WORK/out" 2>&1
	got=$?
	[ $got = "$want" ] || { echo "exit code $got, wanted $want"; cat "$WORK/out"; return 1; }
}
said() { grep -qE -- "$1" "$WORK/out" || { cat "$WORK/out"; return 1; }; }
# next_node [helper's options]: one that has nothing of the last one
next_node() {
	must stop_helper
	losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"
	rm -rf "$CACHE_DIR" $state
	start_helper "$@"
}
nothing_of_it() { [ -z "$(ls -A $state 2>/dev/null)" ] && no_dm_devices; }

load_module
start_registry
mkdir -p "$DISK/wanted" "$DISK/layout"
must "$PYTHON" "$SELFTESTS/lib/applylayers.py" "$DISK/wanted" "${layers[@]}"
tree "$DISK/wanted" "$WORK/wanted"
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" latest "${layers[@]}"
push_image "$DISK/layout:latest" nasty:latest
convert nasty latest latest_fastoci
must "$PYTHON" "$SELFTESTS/lib/mkpatches.py" "$DISK/files" "$DISK/patches.tar.gz" 8 $((1280 * 1024))
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" patches "$DISK/patches.tar.gz"
push_image "$DISK/layout:patches" patches:latest
convert patches latest latest_fastoci

# The first node reads some of the image, and all of it later.
helper_options=(--cache-size-mb 512)
jq -n '{wholeLayerKB: 0, readaheadMB: 0}' > "$WORK/config.json"
start_helper --config "$WORK/config.json"
check 'nothing attached is nothing to export' exits 3 fastoci seed export "$seed"
check 'attach' fastoci attach "$image" --plain --mount "$mnt" || die 'nothing to export'
read_some=$(cd "$mnt" && find . -xdev -type f -size +100k | sort | head -n 1)
cat "$mnt/$read_some" > /dev/null
check 'export what was read' fastoci seed export "$seed.part" $name
check 'attach another image' fastoci attach "$other" --plain
check 'export all of both, with a fetch of the rest' fastoci --json seed export "$seed" --all
cp "$WORK/check.out" "$WORK/exported.json"
is 'all of both is in it' "$(jq -c '[.images[] | .seeded_bytes == .data_bytes and .data_bytes > 0]' "$WORK/exported.json")" '[true,true]'
digest=$(jq -r ".images[] | select(.name == \"$name\") | .manifest_digest" "$WORK/exported.json")
check 'a seed is written once' exits 6 fastoci seed export "$seed"
check 'what is there says so' said 'is there already'
is 'nothing but the seeds is left on the disk' "$(find "$DISK" -maxdepth 1 -name 'seed*' -printf '%f\n' | sort | tr '\n' ' ')" 'seed seed.part '
is 'a seed has no original layer' "$(find "$seed" "$seed.part" -name "$(sha256sum < "${layers[0]}" | cut -d' ' -f1)")" ''
check 'part of the data is less' test "$(du -s "$seed.part" | cut -f1)" -lt "$(($(du -s "$seed" | cut -f1) / 2))"
for each in $name patches-latest_fastoci; do check "detach $each" fastoci detach $each; done
stop_registry
before=$(find "$seed" -type f -exec sha256sum {} + | sort)

# The second node has no registry, and another chunk size.
next_node --chunk-kb 256
check 'no registry answers' not registry_alive
check 'so nothing can be attached' exits 4 fastoci attach "$image" --plain
check 'a check finds nothing wrong' exits 0 fastoci seed import "$seed" --check
check 'and says what is in it' said "^$image@$digest correct: "
check 'and changes nothing' nothing_of_it

# Seeds that are damaged, or lie.
bad=$DISK/bad
# refused WHAT SAYS COMMAND...: after that command in a copy of the seed
refused() {
	local what=$1 says=$2
	shift 2
	rm -rf "$bad"
	cp -a "$seed.part" "$bad"
	(cd "$bad" && "$@") || die "cannot make $what"
	check "$what is refused" exits 7 fastoci seed import "$bad"
	check "$what: it says which, and where" said "$says"
	check "$what: nothing is left" nothing_of_it
	is "$what: no data came" "$(helper_stat 'caches | length')" 0
}
manifest_of() { # true: the file of the seed's own manifest; false: of the image's
	local digest
	for digest in $(jq -r '.manifests[].digest' index.json); do
		digest=blobs/sha256/${digest#*:}
		! jq -e "(.artifactType == \"application/vnd.fastoci.seed.v1+json\") == $1" "$digest" > /dev/null || echo "$digest"
	done
}
data() { jq -r '.layers[0].digest' "$(manifest_of true)" | sed 's|sha256:|blobs/sha256/|'; }
flip() { # FILE AT
	printf '%b' "\\x$(printf %02x $(($(od -An -tu1 -j"$2" -N1 "$1") ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2> /dev/null
}
flip_data() { flip "$(data)" 70000; }
cut_data() { truncate -s -1 "$(data)"; }
no_data() { rm "$(data)"; }
flip_meta() { flip "$(jq -r '.layers[0].digest' "$(manifest_of false)" | sed 's|sha256:|blobs/sha256/|')" 500; }
cut_manifest() { truncate -s -5 "$(manifest_of false)"; }
lie() { "$PYTHON" "$SELFTESTS/lib/lyingseed.py" . "$1"; }
refused 'a flipped bit of data' 'blobs/sha256/[0-9a-f]{64}: data bytes [0-9]+\+65536 of the layer sha256:[0-9a-f]{64} \(at 65536 in the file\)' flip_data
refused 'data that is cut short' 'blobs/sha256/[0-9a-f]{64}' cut_data
refused 'a flipped bit of a meta layer' 'blob sha256:[0-9a-f]{64}' flip_meta
refused 'a manifest that is cut short' 'sha256:[0-9a-f]{64}' cut_manifest
refused 'wrong data under a right digest' 'data bytes [0-9]+\+65536 of the layer .* are not what the meta image says' lie data
refused 'data of another data space' 'the image has no data space' lie space
refused 'a config of another image' "the seed's config has another layer 1" lie layer
rm -rf "$bad" && cp -a "$seed.part" "$bad" && (cd "$bad" && no_data)
check 'a seed without its data is refused' exits 3 fastoci seed import "$bad"
check 'and says what is missing' said 'blobs/sha256/[0-9a-f]{64}: No such file'
check 'what is no seed is refused' exits 3 fastoci seed import "$DISK/layout"
check 'a manifest that nobody expects is refused' exits 7 fastoci seed import "$seed" --digest "sha256:$(printf 0%.0s {1..64})"
check 'nothing of all that is left' nothing_of_it

# One that is right.
check 'import' exits 0 fastoci --json seed import "$seed" "$image" --digest "$digest"
is 'all of its data is there' "$(jq -c '.images | map([.name, .seeded_bytes == .data_bytes, .chunks > 0])' "$WORK/out")" "[[\"$name\",true,true]]"
check 'it is not attached' no_dm_devices
matches 'list shows it' "$(fastoci list)" "^$name .* seeded "
must stop_helper
start_helper
check 'another helper: attach without a registry' fastoci attach "$image" --mount "$mnt" || die 'not attached'
check 'every path, type, mode, owner, time, size, content, xattr, device and link is right' same_tree
check 'the whole image is there' wait_for 60 all_there
is 'no byte was fetched' "$(counter bytes_fetched)" 0
is 'and no read failed' "$(counter fails)" 0
check 'an import of what is attached' exits 0 fastoci seed import "$seed" "$image"
check 'leaves it as it is' same_tree
check 'detach' fastoci detach $name
matches 'keeps what no registry would bring again' "$(fastoci list)" "^$name .* seeded "
check 'so it can be attached again' fastoci attach "$image" --mount "$mnt"
check 'and is right' same_tree
check 'detach it' fastoci detach $name
check 'detach what is kept' fastoci detach $name
check 'ends it' nothing_of_it
is 'the seed is what it was' "$(find "$seed" -type f -exec sha256sum {} + | sort)" "$before"

# A seed of a part: the rest is missing until there is a registry.
next_node
check 'import a part' exits 0 fastoci seed import "$seed.part" --plain
check 'attach it' fastoci attach "$image" --fail-after-ms 500 --mount "$mnt"
check 'what was read on the first node is right' cmp "$mnt/$read_some" "$DISK/wanted/$read_some"
check 'the rest fails without a registry' not same_tree
fastoci hold $name > /dev/null
start_registry
check 'and comes when there is one' same_tree
test "$(counter bytes_fetched)" -gt 0 || not_ok 'it was fetched'
check 'detach it' fastoci detach $name

# A cache with too little room: the second import begins, and is undone.
helper_options=(--cache-size-mb 26)
next_node
check 'import and pin one image' exits 0 fastoci seed import "$seed" "$image" --pin
check 'the other one does not fit beside it' exits 1 fastoci seed import "$seed" "$other"
check 'and says so' said 'patches:latest_fastoci is not imported'
is 'only the first one is there' "$(ls $state)" $name
check 'nothing is attached' no_dm_devices
check 'attach the first one' fastoci attach "$image" --mount "$mnt"
check 'all of it is right' same_tree
is 'and nothing was fetched' "$(counter bytes_fetched)" 0
check 'detach the first one' fastoci detach $name
check 'a seed that cannot fit is refused before it begins' exits 1 fastoci seed import "$seed"
check 'with what to do' said 'use a larger cache'

# The helper dies while data comes.
helper_options=(--cache-size-mb 512)
next_node
fastoci seed import "$seed" "$image" > "$WORK/out" 2>&1 &
import=$!
attached() { ! no_dm_devices; }
wait_for 60 attached
kill_helper
wait $import
status=$?
note "the import ended with $status: $(cat "$WORK/out")"
if [ $status != 0 ]; then
	check 'an import whose helper dies says so' said 'is not imported'
	check 'and leaves nothing' nothing_of_it
else
	note 'it was faster than the kill'
	fastoci detach $name
fi
start_helper
check 'and can be done again' exits 0 fastoci seed import "$seed"
check 'attach it' fastoci attach "$image" --mount "$mnt"
check 'it is right' same_tree
check 'detach it' fastoci detach $name
check 'the helper ends' stop_helper
losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"
check 'nothing is left' nothing_left
finish
