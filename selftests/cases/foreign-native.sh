#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Native overlaybd layers in all their forms, alone, beside turboOCI layers in one image, and by overlaybd's config.v1.json:
# they attach, are fetched on demand, and read as their layers say. Those that we make are verified by chunk.
# once: formats that the helper decodes
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/foreign.sh
. "$SELFTESTS/lib/foreign.sh"
requires docker-registry skopeo e2fsck mkfs.ext4 "$BIN/convertor" "$BIN/fastoci" "$BIN/fastoci-helperd" "$BIN/fastoci-decoderd"

native_of() { # NUMBER FORM: what the turboOCI layer of this number shows, as a native layer
	must "$PYTHON" "$SELFTESTS/lib/mknative.py" "$DISK/$2.$1" "$2" "${ext4[$1]}=$layers/layer$(($1 + 1)).tar.gz"
}
digest() { sha256sum < "$1" | sed 's/^/sha256:/; s/ .*//'; }

load_module
must modprobe -a ext4
start_registry
start_helper
wanted ext4 "$layers"/layer{1,2,3}.tar.gz

# Those of the reference, and an acceleration layer on top, which is no layer (this one would hide what layer 2 brought).
native=("$fixtures"/native/000{0,1,2}.overlaybd.commit)
push native "${native[@]}" "accel:${native[0]}"
before=$(counter bytes_fetched)
check 'native: attach, mount and one file' eval 'attached native --skip-fsck && cat "$mnt/app/main"'
part=$(($(counter bytes_fetched) - before)) all=$(cat "${native[@]}" | wc -c)
note "native: $part of $all bytes were fetched for that"
check 'native: fetched on demand' [ "$part" -gt 0 -a "$part" -lt $((all / 4)) ]
reads_as ext4 native
matches 'inspect tells what is in native layers, and that nothing verifies them' \
	"$(fastoci inspect "$REGISTRY/foreign:native")" '^3 layers, .* 3 without digests$'

# Other forms, between and above turboOCI layers.
native_of 1 tar
for form in lz4 zstd lsmt; do
	native_of 2 $form
	push "mixed-$form" "${ext4[0]}=$layers/layer1.tar.gz" "$DISK/tar.1" "$DISK/$form.2"
done
for form in lz4 zstd lsmt; do
	check "mixed-$form: attach and mount" attached mixed-$form --skip-fsck
	check "mixed-$form: the tree is what the layers unpack to" same_tree ext4
	check "mixed-$form: detach" fastoci -q detach "$mnt"
done

# Our own, copied to a layout and from there to another repository: the digests, which a referrer has, go with them.
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" latest "$layers"/layer{1,2,3}.tar.gz > "$WORK/mkimage.log" 2>&1
push_image "$DISK/layout:latest" ours:latest
must "$BIN/convertor" -r "$REGISTRY/ours" -i latest -o native --plain -d "$DISK/scratch" > "$WORK/convertor.log" 2>&1
check 'our own: copy to a layout' fastoci copy "$REGISTRY/ours:native" "oci:$DISK/copy:native"
check 'our own: and to another repository' fastoci copy "oci:$DISK/copy:native" "$REGISTRY/foreign:ours"
matches 'inspect finds their chunk digests' "$(fastoci inspect "$REGISTRY/foreign:ours")" '^3 layers, .* 0 without digests$'
check 'check compares them' fastoci check "$REGISTRY/foreign:ours"
before=$(counter pieces_unverified)
check 'our own: attach and mount' attached ours
check 'our own: the tree is what the layers unpack to' same_tree ext4
is 'our own: nothing of it was served unverified' "$(counter pieces_unverified)" "$before"
matches 'status says so, and by what' "$(fastoci status)" \
	'sha256:[0-9a-f]{64}: verified by chunk: its chunk digests come from a referrer'
check 'our own: detach' fastoci -q detach "$mnt"

# On a base layer, a native one below meta layers.
must truncate -s 4G "$DISK/base.img"
must mkfs.ext4 -q -O ^has_journal "$DISK/base.img"
must "$PYTHON" "$SELFTESTS/lib/mknative.py" "$DISK/base" zfile "$DISK/base.img"
must "$BIN/convertor" -r "$REGISTRY/ours" -i latest --fastoci base --plain --mkfs=false --base-layer "$DISK/base" > "$WORK/convertor.log" 2>&1
check 'on a base layer: attach and mount' fastoci -q attach "$REGISTRY/ours:base" --mount "$mnt"
check 'on a base layer: the tree is what the layers unpack to' same_tree ext4
check 'on a base layer: zeros behind each file'"'"'s end' "$PYTHON" "$SELFTESTS/lib/eofzeros.py" "$mnt"
check 'on a base layer: detach' fastoci -q detach "$mnt"

# config.v1.json: a turboOCI layer whose metadata lies here and its blob in the registry, one whose blob lies here, and a
# native one of a directory.
for n in 0 1 2; do
	mkdir -p "$WORK/config/$n"
	must tar -C "$WORK/config/$n" -xzf "${ext4[n]}"
done
native_of 2 sealed
mv "$DISK/sealed.2" "$WORK/config/2/overlaybd.sealed"
turbo_lower() { # NUMBER FIELD VALUE
	printf '{"dir": "%s", "file": "%s/ext4.fs.meta", "gzipIndex": "%s/gzip.meta", "%s": "%s"}' \
		"$WORK/config/$1" "$WORK/config/$1" "$WORK/config/$1" "$2" "$3"
}
cat > "$WORK/config/v1.json" <<-JSON
{"repoBlobUrl": "http://$REGISTRY/v2/foreign/blobs", "upper": {}, "resultFile": "$WORK/result", "lowers": [
$(turbo_lower 0 targetDigest "$(digest "$layers/layer1.tar.gz")"), $(turbo_lower 1 targetFile "$layers/layer2.tar.gz"),
{"dir": "$WORK/config/2"}]}
JSON
by_config() { fastoci -q attach --config "$WORK/config/$1.json" --name "$1" --mount "$mnt" --skip-fsck; }
check 'config.v1.json: attach and mount' by_config v1
check 'config.v1.json: the tree is what the layers unpack to' same_tree ext4
check 'config.v1.json: detach' fastoci -q detach v1

# A file that nobody sealed: a small file system in a sparse one.
mkdir "$DISK/small"
cp -r "$SELFTESTS/lib" "$DISK/small"
must mkfs.ext4 -q -O ^has_journal -d "$DISK/small" "$DISK/small.img" 16M
must "$PYTHON" "$SELFTESTS/lib/mknative.py" "$WORK/config/rw_data" sparse "$DISK/small.img"
printf '{"lowers": [{"file": "%s"}]}' "$WORK/config/rw_data" > "$WORK/config/sparse.json"
check 'a sparse file without an index: attach and mount' by_config sparse
check 'its tree is what went in' diff -r "$DISK/small/lib" "$mnt/lib"
check 'a sparse file: detach' fastoci -q detach sparse

stop_helper
must losetup -D # the cache is the next helper's
check 'nothing is left' nothing_left
finish
