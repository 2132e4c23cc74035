#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# turboOCI images that the reference implementation made (selftests/fixtures) attach, and read as their layers say.
# once: formats that the helper decodes
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/foreign.sh
. "$SELFTESTS/lib/foreign.sh"
requires docker-registry e2fsck fsck.erofs "$BIN/fastoci" "$BIN/fastoci-helperd" "$BIN/fastoci-decoderd"

load_module
must modprobe -a ext4 erofs
start_registry
start_helper
must zcat "$layers/layer2.tar.gz" > "$DISK/layer2.tar"
wanted ext4 "$layers"/layer{1,2,3}.tar.gz

zipped=("${ext4[0]}=$layers/layer1.tar.gz" "${ext4[1]}=$layers/layer2.tar.gz" "${ext4[2]}=$layers/layer3.tar.gz")
push docker "${zipped[@]}"
push legacy-oci --legacy --oci "${zipped[0]}" "${ext4[1]}=$DISK/layer2.tar" "${zipped[2]}"
reads_as ext4 docker
reads_as ext4 legacy-oci --skip-fsck
matches 'inspect tells the parts of meta layers' "$(fastoci inspect "$REGISTRY/foreign:docker")" ' ext4[.]fs[.]meta .* gzip[.]meta '

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
