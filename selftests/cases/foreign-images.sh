#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# An image that the reference implementation made (selftests/fixtures) attaches, and reads as its layers say.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry e2fsck "$BIN/fastoci" "$BIN/fastoci-helperd" "$BIN/fastoci-decoderd"

layers=$SELFTESTS/fixtures/layers mnt=$WORK/mnt
meta=("$SELFTESTS"/fixtures/turbo-ext4/000{0,1,2}.turboOCIv1.tar.gz)
# The reference's convertor takes no uid, gid and mtime from PAX records and gives directories times of its own.
list() { "$PYTHON" "$SELFTESTS/lib/treelist.py" "$1" uid gid mtime lost+found; }
same_tree() { list "$mnt" > "$WORK/got" && diff "$WORK/wanted" "$WORK/got"; }

load_module
start_registry
start_helper --lanes 3
mkdir -p "$DISK/tree"
must "$PYTHON" "$SELFTESTS/lib/applylayers.py" "$DISK/tree" "$layers"/layer{1,2,3}.tar.gz
list "$DISK/tree" > "$WORK/wanted"
must "$PYTHON" "$SELFTESTS/lib/pushforeign.py" "$REGISTRY/foreign" docker "${meta[0]}=$layers/layer1.tar.gz" \
	"${meta[1]}=$layers/layer2.tar.gz" "${meta[2]}=$layers/layer3.tar.gz"
check 'attach and mount' fastoci -q attach "$REGISTRY/foreign:docker" --plain --mount "$mnt"
check 'the tree is what the layers unpack to' same_tree
check 'zeros behind each file'"'"'s end' "$PYTHON" "$SELFTESTS/lib/eofzeros.py" "$mnt"
check 'detach' fastoci -q detach "$mnt"
check 'the helper ends' stop_helper
losetup -d "$(losetup -nO NAME | head -n 1)"
stop_registry
check 'nothing is left' nothing_left
finish
