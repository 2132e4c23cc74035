#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Images that the reference implementation made (selftests/fixtures) attach, and read as their layers say.
# timeout: 300
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry e2fsck fsck.erofs "$BIN/fastoci" "$BIN/fastoci-helperd" "$BIN/fastoci-decoderd"

fixtures=$SELFTESTS/fixtures layers=$SELFTESTS/fixtures/layers
mnt=$WORK/mnt
# The reference's convertor takes no uid, gid and mtime from PAX records and gives directories times of its own.
unlike=(uid gid mtime lost+found)
like() { cat; }
list() { "$PYTHON" "$SELFTESTS/lib/treelist.py" "$1" "${unlike[@]}" | like; }
# wanted NAME LAYER...: lists what these layers unpack to, in $WORK/NAME.wanted
wanted() {
	mkdir -p "$DISK/$1"
	must "$PYTHON" "$SELFTESTS/lib/applylayers.py" "$DISK/$1" "${@:2}"
	must list "$DISK/$1" > "$WORK/$1.wanted"
}
push() { # TAG [options] LAYER...
	"$PYTHON" "$SELFTESTS/lib/pushforeign.py" "$REGISTRY/foreign" "$@" >> "$WORK/push.log" 2>&1 || die "push of $1"
}
same_tree() { # NAME
	list "$mnt" > "$WORK/got" && diff "$WORK/$1.wanted" "$WORK/got"
}
attached() { fastoci -q attach "$REGISTRY/foreign:$1" --mount "$mnt" "${@:2}"; }
# reads_as NAME TAG [options of attach]: the image attaches, its tree is that of NAME, nothing shows behind a file's end
reads_as() {
	check "$2: attach and mount" attached "${@:2}" || return
	check "$2: the tree is what the layers unpack to" same_tree "$1"
	check "$2: zeros behind each file's end" "$PYTHON" "$SELFTESTS/lib/eofzeros.py" "$mnt"
	check "$2: detach" fastoci -q detach "$mnt"
}

load_module
must modprobe -a ext4 erofs
start_registry
start_helper
must zcat "$layers/layer2.tar.gz" > "$DISK/layer2.tar"
wanted ext4 "$layers"/layer{1,2,3}.tar.gz

ext4=("$fixtures"/turbo-ext4/000{0,1,2}.turboOCIv1.tar.gz)
zipped=("${ext4[0]}=$layers/layer1.tar.gz" "${ext4[1]}=$layers/layer2.tar.gz" "${ext4[2]}=$layers/layer3.tar.gz")
push docker "${zipped[@]}"
push legacy-oci --legacy --oci "${zipped[0]}" "${ext4[1]}=$DISK/layer2.tar" "${zipped[2]}"
reads_as ext4 docker
reads_as ext4 legacy-oci --skip-fsck

# Native layers, and an acceleration layer on top, which is no layer (this one would hide what layer 2 brought).
native=("$fixtures"/native/000{0,1,2}.overlaybd.commit)
push native "${native[@]}" "accel:${native[0]}"
fetched() { fastoci status --json | jq .helper.counters.bytes_fetched; }
before=$(fetched)
check 'native: attach, mount and one file' eval 'attached native --skip-fsck && cat "$mnt/app/main"'
part=$(($(fetched) - before)) all=$(cat "${native[@]}" | wc -c)
note "native: $part of $all bytes were fetched for that"
check 'native: fetched on demand' [ "$part" -gt 0 -a "$part" -lt $((all / 4)) ]
reads_as ext4 native

matches 'inspect tells what is in native layers, and that nothing verifies them' \
	"$(fastoci inspect "$REGISTRY/foreign:native")" '^3 layers, .* 3 without digests$'
matches 'and the parts of meta layers' "$(fastoci inspect "$REGISTRY/foreign:docker")" ' ext4[.]fs[.]meta .* gzip[.]meta '

# overlaybd's config.v1.json: metadata that lies here, a blob here and two in the registry
for n in 0 1 2; do
	mkdir -p "$WORK/config/$n"
	must tar -C "$WORK/config/$n" -xzf "${ext4[n]}"
done
digest() { sha256sum < "$1" | sed 's/^/sha256:/; s/ .*//'; }
turbo_lower() { # NUMBER FIELD VALUE
	printf '{"dir": "%s", "file": "%s/ext4.fs.meta", "gzipIndex": "%s/gzip.meta", "%s": "%s"}' \
		"$WORK/config/$1" "$WORK/config/$1" "$WORK/config/$1" "$2" "$3"
}
cat > "$WORK/config/v1.json" <<-JSON
{"repoBlobUrl": "http://$REGISTRY/v2/foreign/blobs", "upper": {}, "resultFile": "$WORK/result", "lowers": [
$(turbo_lower 0 targetDigest "$(digest "$layers/layer1.tar.gz")"), $(turbo_lower 1 targetFile "$layers/layer2.tar.gz"),
$(turbo_lower 2 targetDigest "$(digest "$layers/layer3.tar.gz")")]}
JSON
check 'config.v1.json: attach and mount' \
	fastoci -q attach --config "$WORK/config/v1.json" --name config --mount "$mnt" --skip-fsck
check 'config.v1.json: the tree is what the layers unpack to' same_tree ext4
check 'config.v1.json: detach' fastoci -q detach config

erofs=("$fixtures"/turbo-erofs/000{0,1,2}.turboOCIv1.tar.gz)
push erofs "${erofs[0]}=$layers/layer1.tar.gz" "${erofs[1]}=$layers/layer2n.tar.gz" "${erofs[2]}=$layers/layer3.tar.gz"
# The reference's erofs counts links anew, knows no old-style regular files, cuts the longest name, keeps no opaque mark.
unlike+=(nlink)
like() { grep -vE '"path": "([.]|etc/oldreg|long/n+|xattr/dir)"'; }
wanted erofs "$layers"/layer{1,2n,3}.tar.gz
reads_as erofs erofs

stop_helper
must losetup -D # the cache is the next helper's
check 'nothing is left' nothing_left
finish
