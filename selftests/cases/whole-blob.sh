#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Layers without chunk digests: an honest whole download after lying ranges finds and replaces what the ranges had planted;
# a blob that is not what its digest says is refused.
# timeout: 900
# once: what the helper verifies
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry e2fsck fsck.erofs jq "$BIN/fastoci" "$BIN/fastoci-helperd"

proxy=127.0.0.1:5001 mode=$WORK/mode mnt=$WORK/mnt fixtures=$SELFTESTS/fixtures
say() { echo "$1 $2 $layer" > "$mode"; } # of the layer alone
proxy_answers() { curl -s -o /dev/null "http://$proxy/v2/"; }
contents() { # DIR: of every eighth file; reads that fail are in $WORK/errors
	drop_caches
	(cd "$1" && find . -type f | LC_ALL=C sort | awk 'NR % 8 == 0' | tr '\n' '\0' | xargs -0 sha256sum) 2> "$WORK/errors"
}
verified() { [ "$(helper_stat "spaces | map(select(.used and .verified == \"$1\")) | length")" = 1 ]; }
why() { helper_stat 'spaces[] | select(.used) | .why'; }
refused() { grep -q 'as a whole does not match its digest' <<<"$(why)"; }
config() { # POLICY
	echo "{\"wholeBlob\": \"$1\", \"download\": {\"delay\": 0, \"delayExtra\": 0}}" > "$WORK/config.json"
	"$BIN/fastoci" config check "$WORK/config.json"
}

load_module
start_registry
must mkdir -p "$DISK/tree"
must tar -xzf "$fixtures/layers/layer1.tar.gz" -C "$DISK/tree" --no-same-owner --exclude='.wh.*'
must bash -c "zcat '$fixtures/layers/layer1.tar.gz' > '$DISK/layer1.tar'" # its bytes are taken as they come
for fs in ext4 erofs; do
	must "$PYTHON" "$SELFTESTS/lib/pushforeign.py" "$REGISTRY/foreign" $fs "$fixtures/turbo-$fs/0000.turboOCIv1.tar.gz=$DISK/layer1.tar"
done
layer=$(sha256sum < "$DISK/layer1.tar" | cut -c1-64)
say none 0
"$PYTHON" "$SELFTESTS/lib/faultproxy.py" 5001 5000 "$mode" > "$WORK/proxy.log" 2>&1 &
defer kill $!
wait_for 30 proxy_answers || die 'no proxy'

check 'policy off' config off
start_helper --config "$WORK/config.json" --decoders 3
check 'attach through the proxy' fastoci -q attach "$proxy/foreign:ext4" --plain --mount "$mnt" || die 'nothing to read'
contents "$DISK/tree" > "$WORK/wanted"
say flip -1
contents "$mnt" > "$WORK/lies"
check 'ranges that lie plant wrong bytes in files' not cmp -s "$WORK/lies" "$WORK/wanted"
matches 'status says that the layer is unverified, and why' "$(fastoci status)" \
	'layer.*sha256:.*unverified: its meta layer has no chunk digests; wholeBlob is off'
say none 0
stop_helper
check 'policy fail' config fail
start_helper --config "$WORK/config.json" --decoders 3
check 'the whole blob is read and verified' wait_for 60 verified 'as a whole'
found() { grep -q 'verified as a whole, [1-9][0-9]* cached chunks differed: a source lied' "$WORK/helper.log"; }
check 'what the ranges had planted is found and reported' wait_for 30 found
check 'and counted' test "$(counter planted)" -gt 0
matches 'status says that it is verified as a whole' "$(fastoci status)" 'layers.* 1 verified as a whole'
right() { contents "$mnt" > "$WORK/now"; cmp "$WORK/now" "$WORK/wanted"; }
check 'every file is right now' right
say flip -1
fastoci -q detach "$mnt"
check 'attach again: what was recorded holds' fastoci -q attach "$proxy/foreign:ext4" --plain --mount "$mnt"
check 'verified at once' wait_for 30 verified 'as a whole'
check 'every file is right' right
fastoci -q detach "$mnt"

# Nothing but lies.
check 'attach another one' fastoci -q attach "$proxy/foreign:erofs" --plain --mount "$mnt"
check 'the mismatch is found' wait_for 60 refused
matches 'status names the blob and both digests' "$(fastoci status)" \
	'unverified: .*sha256:[0-9a-f]{64} as a whole does not match its digest: what the source sends is sha256:'
contents "$mnt" > "$WORK/refused"
matches 'reads are errors' "$(cat "$WORK/errors")" 'Input/output error'
check 'and no byte that was planted is served' not grep -vxFf "$WORK/wanted" "$WORK/refused"
fastoci -q detach "$mnt"
cache_ends() { stop_helper && losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"; }
check 'the helper ends' cache_ends

# With the download, what the check reads is kept.
CACHE_DIR=$DISK/cache-download size=$(stat -c %s "$DISK/layer1.tar")
echo '{"download": {"enable": true, "delay": 0, "delayExtra": 0}}' > "$WORK/config.json"
say none 0
start_helper --config "$WORK/config.json" --decoders 3
check 'attach with the download' fastoci -q attach "$proxy/foreign:ext4" --plain --mount "$mnt"
all_cached() { fastoci status | grep -q 'all cached: needs neither'; }
check 'all of it is cached' wait_for 60 all_cached
check 'and verified' wait_for 60 verified 'as a whole'
fetched=$(counter bytes_fetched)
note "fetched $fetched bytes of a layer of $size"
check 'its bytes came about once' test "$fetched" -lt $((size * 3 / 2))
is 'nothing was found to be planted' "$(counter planted)" 0
say 404 -1
check 'every file is right, without a source' right
fastoci -q detach "$mnt"
check 'the helper ends' cache_ends
stop_registry
check 'nothing is left' nothing_left
finish
