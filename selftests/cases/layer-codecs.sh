#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Layers in each form of compression that occurs (lib/recompress.py) convert and attach: the tree is the layers' tree, the
# content is the blobs'. A zstd layer of many frames is fetched by frames, one of a single frame, or a small one, as a whole.
# And many layers (LAYERS_POINTS=40; 256 is as many as there may be), one more than there may be, empty ones, and none.
# once: how layers are packed
# timeout: 1200
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry skopeo zstd curl jq e2fsck "$BIN/fastoci" "$BIN/fastoci-helperd" "$BIN/convertor"

layers=$SELFTESTS/fixtures/layers mnt=$WORK/mnt
list() { "$PYTHON" "$SELFTESTS/lib/treelist.py" "$1" lost+found; }
same_tree() { list "$mnt" > "$WORK/got" && diff "$WORK/wanted" "$WORK/got"; }
image() { # NAME FORM...: of layers 1, 2 and 3 in these forms
	local n=0 form made=()
	for form in "${@:2}"; do
		n=$((n + 1))
		must "$PYTHON" "$SELFTESTS/lib/recompress.py" "$layers/layer$n.tar.gz" "$DISK/$1.$n" "$form"
		made+=("$DISK/$1.$n")
	done
	must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" "$1" "${made[@]}"
	push_image "$DISK/layout:$1" "codecs:$1"
	convert codecs "$1" "$1-fast"
}
fetched() { counter bytes_fetched; }
attached() { fastoci -q attach "$REGISTRY/codecs:$1-fast" --mount "$mnt"; }

load_module
start_registry
start_helper
mkdir -p "$DISK/tree"
must "$PYTHON" "$SELFTESTS/lib/applylayers.py" "$DISK/tree" "$layers"/layer{1,2,3}.tar.gz
list "$DISK/tree" > "$WORK/wanted"

image gzip members odd members
matches 'the convertor warns of what overlaybd cannot read' "$(cat "$WORK/convertor.log")" 'layer 1 has [0-9]+ gzip members'
image zstd frames zstd frames
matches 'of zstd, too' "$(cat "$WORK/convertor.log")" 'layer 2 is compressed with zstd.*overlaybd will not read it'

check 'zstd: attach and mount' attached zstd
before=$(fetched)
check 'zstd: a small file' eval 'cat "$mnt/etc/motd" || find "$mnt/etc" -type f -size -8k | head -n 1 | xargs cat'
part=$(($(fetched) - before))
all=$(cat "$DISK"/zstd.? | wc -c)
note "$part of $all bytes were fetched for that"
check 'zstd: fetched by frames' [ "$part" -lt $((all / 3)) ]
check 'zstd: the tree is the layers'"'"' tree' same_tree
check 'zstd: zeros behind the ends of files' "$PYTHON" "$SELFTESTS/lib/eofzeros.py" "$mnt"
check 'zstd: detach' fastoci -q detach "$mnt"
check 'gzip: attach and mount' attached gzip
check 'gzip: the tree is the layers'"'"' tree' same_tree
check 'gzip: detach' fastoci -q detach "$mnt"
for name in zstd gzip; do
	check "$name: the whole content is that of the blobs" fastoci -q check "$REGISTRY/codecs:$name-fast"
done
matches 'inspect names the index' "$(fastoci inspect "$REGISTRY/codecs:zstd-fast")" 'fastoci[.]zstd'
is 'each layer of the other has the index of its form' \
	"$(fastoci inspect "$REGISTRY/codecs:gzip-fast" | grep -oE 'fastoci[.]gzip|gzip[.]meta' | tr '\n' ' ')" 'fastoci.gzip gzip.meta fastoci.gzip '

# A small blob with much data in it: one request gets all of it.
mkdir -p "$DISK/small"
seq 250000 > "$DISK/small/numbers"
must tar -C "$DISK/small" -czf "$DISK/small.1" numbers
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" small "$DISK/small.1"
push_image "$DISK/layout:small" codecs:small
convert codecs small small-fast
check 'a small layer: attach and mount' attached small
before=$(fetched)
check 'its begin is read' eval 'head -c 100 "$mnt/numbers" | cmp - <(head -c 100 "$DISK/small/numbers")'
wait_for 30 eval '[ "$(helper_stat jobs)" = 0 ]'
got=$(($(fetched) - before)) size=$(stat -c %s "$DISK/small.1")
check 'which fetches all of the blob' [ "$got" -gt $((size - 100)) -a "$got" -le "$size" ]
drop_caches
check 'the rest of the file is right' cmp "$DISK/small/numbers" "$mnt/numbers"
is 'and needs no fetch' "$(($(fetched) - before))" "$got"
check 'a small layer: detach' fastoci -q detach "$mnt"

# Many layers: each one above wins.
nr_layers=${LAYERS_POINTS:-40}
must "$PYTHON" "$SELFTESTS/lib/manylayers.py" 257 "$DISK/many"
mapfile -t all < <(seq -f "$DISK/many.%g" 257)
many=("${all[@]:0:nr_layers}")
mkdir -p "$DISK/many"
must "$PYTHON" "$SELFTESTS/lib/applylayers.py" "$DISK/many" "${many[@]}"
list "$DISK/many" > "$WORK/wanted"
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" many "${many[@]}"
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" more "${all[@]}"
convert_layout() { "$BIN/convertor" -r "oci:$DISK/layout" -i "$1" --fastoci "$1-fast" --oci; }
check "$nr_layers layers are converted" convert_layout many
[ "$nr_layers" -le 255 ] ||
	matches 'with a word about overlaybd' "$(cat "$WORK/check.out")" "has $nr_layers layers, and overlaybd stacks at most 255"
check 'and pushed' fastoci copy "oci:$DISK/layout:many-fast" "$REGISTRY/codecs:many-fast"
check 'many layers: attach and mount' attached many
check 'many layers: the tree is what they unpack to' same_tree
check 'many layers: detach' fastoci -q detach "$mnt"
matches 'one more cannot be converted' "$(convert_layout more 2>&1)" 'the image has 257 layers; at most 256 '
url=http://$REGISTRY/v2/codecs/manifests oci=application/vnd.oci.image.manifest.v1+json
curl -s -H "Accept: $oci" "$url/many-fast" | jq '.layers[0] as $layer | .layers += [range(257 - (.layers | length)) | $layer]' |
	curl -sf -X PUT -H "Content-Type: $oci" --data-binary @- "$url/more-fast" || die 'put of a manifest'
matches 'and not be attached' "$(attached more 2>&1)" 'the manifest has 257 layers; at most 256 '
# Layers of nothing below and above another, and no layer at all; from a layout.
: > "$DISK/hollow.1"
gzip -c < "$DISK/hollow.1" > "$DISK/hollow.2"
zstd -qc < "$DISK/hollow.1" > "$DISK/hollow.3"
rm -rf "$DISK/tree" && mkdir "$DISK/tree"
must "$PYTHON" "$SELFTESTS/lib/applylayers.py" "$DISK/tree" "$layers/layer1.tar.gz"
list "$DISK/tree" > "$WORK/wanted"
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" hollow "$DISK/hollow.1" "$layers/layer1.tar.gz" "$DISK"/hollow.{2,3}
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" none
for name in hollow none; do
	check "$name: converted" convert_layout $name
	check "$name: attach and mount" fastoci -q attach "oci:$DISK/layout:$name-fast" --mount "$mnt"
	if [ $name = hollow ]; then
		check 'hollow: the tree is that of the layer between' same_tree
		check 'hollow: the content is that of the blobs' fastoci -q check "oci:$DISK/layout:hollow-fast"
	else
		is 'none: the root is empty' "$(ls -A "$mnt")" ''
	fi
	check "$name: detach" fastoci -q detach "$mnt"
done
is 'nothing failed' "$(counter fails) $(counter mismatches)" '0 0'

stop_helper
must losetup -D # the cache is the next helper's
check 'nothing is left' nothing_left
finish
