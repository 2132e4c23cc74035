#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Images that share a layer share its chunks; a hostile meta layer that names the same layer, with a forged window and
# digests that match what it leads to, changes nothing for the others, whoever comes first.
# once: how the helper names and verifies layers
# vm: -m 2G
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry skopeo jq "$BIN/fastoci" "$BIN/convertor" "$BIN/fastoci-helperd"

layers=("$SELFTESTS"/fixtures/layers/layer{1,2,3}.tar.gz)
layout=$DISK/layout
tree() { "$PYTHON" "$SELFTESTS/lib/treelist.py" "$1"; }
attach() { fastoci attach "$REGISTRY/shared:$1" --plain --name "$1" --mount "$WORK/$1"; }
misses() { dm_status "fastoci-$1" | cut -d' ' -f5; }
right() { drop_caches; tree "$WORK/$1" | cmp -s - "$WORK/wanted"; }

load_module
start_registry
mkdir -p "$DISK/wanted" "$layout"
must "$PYTHON" "$SELFTESTS/lib/applylayers.py" "$DISK/wanted" "${layers[@]}"
tree "$DISK/wanted" > "$WORK/wanted"
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$layout" plain-a "${layers[@]}"
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$layout" plain-b "${layers[0]}"
for image in a b; do
	must "$BIN/convertor" -r "oci:$layout" -i "plain-$image" --fastoci $image --oci > "$WORK/convertor.log" 2>&1
done
note "$("$PYTHON" "$SELFTESTS/lib/forge.py" "$layout" a forged)"
for tag in plain-a plain-b a b forged; do push_image "$layout:$tag" "shared:$tag"; done
rebuild() { fastoci check "$REGISTRY/shared:$1" --plain --rebuild "$REGISTRY/shared:plain-a"; }
check 'a rebuild of the honest image gives the same' rebuild a
matches 'a rebuild of the hostile one does not' "$(rebuild forged 2>&1)" 'is made from the original'
start_helper --decoders 3

check 'attach the hostile image first' attach forged
tree "$WORK/forged" > "$WORK/forged.tree"
check 'its own content is what it forged' not cmp -s "$WORK/forged.tree" "$WORK/wanted"
is 'in the content of files alone' "$(diff <(jq -c 'del(.sha256)' "$WORK/forged.tree") <(jq -c 'del(.sha256)' "$WORK/wanted"))" ''
check 'attach the image that shares the blob' attach a
check 'all of it is right' right a
test "$(misses a)" -gt 0 || not_ok 'reading it took misses'
check 'attach another image with that layer' attach b
big=$(cd "$WORK/b" && find . -type f -size +2M | sort)
check 'it has the layer'"'"'s large files' test -n "$big"
drop_caches
while read -r file; do
	check "and reads $file" cmp "$WORK/b/$file" "$DISK/wanted/$file"
done <<<"$big"
is 'all from what the first one fetched' "$(misses b)" 0
is 'three spaces hold the one blob and two others, and one the forgery' \
	"$(fastoci status --json | jq '[.helper.spaces[] | .id] | unique | length')" 4
for image in forged a b; do check "detach $image" fastoci detach $image; done

check 'attach the honest image first' attach a
check 'it is right' right a
check 'then the hostile one' attach forged
tree "$WORK/forged" > /dev/null
check 'the honest one is still right' right a
for image in forged a; do check "detach $image again" fastoci detach $image; done
check 'the helper ends' stop_helper
losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"
stop_registry
check 'nothing is left' nothing_left
finish
