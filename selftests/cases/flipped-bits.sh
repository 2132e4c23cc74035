#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A flipped bit in the cache file, in a registry's answer, or in the gzip index, digests, spans, sources and tables of the
# assembled meta image (FLIPS_POINTS, 14 of them): never a wrong byte, always a report. FLIPS_SEED repeats a run. The long
# form: FLIPS_POINTS=200 selftests/run -k 6.12 flipped-bits
# timeout: 400
# once: what the helper verifies
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry skopeo "$BIN/fastoci" "$BIN/convertor" "$BIN/fastoci-helperd"
seed=${FLIPS_SEED:-$RANDOM} mnt=$WORK/mnt mode=$WORK/mode proxy=127.0.0.1:5001
proxy_answers() { curl -s -o /dev/null "http://$proxy/v2/"; }
same() { drop_caches; for f in "$DISK"/files/*; do cmp "$f" "$mnt/${f##*/}" || return 1; done; }
attach() { fastoci -q attach $proxy/flips:fastoci --plain --mount "$mnt"; }
durable() { [ "$(helper_stat 'caches[0] | .present > 10 and .durable == .present')" = true ]; }
load_module
start_registry
mkdir -p "$DISK/layout"
must "$PYTHON" "$SELFTESTS/lib/mkpatches.py" "$DISK/files" "$DISK/layer.tar.gz" 3 $((700 * 1024))
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" latest "$DISK/layer.tar.gz"
push_image "$DISK/layout:latest" flips:latest
convert flips latest fastoci
echo none 0 > "$mode"
"$PYTHON" "$SELFTESTS/lib/faultproxy.py" 5001 5000 "$mode" > "$WORK/proxy.log" 2>&1 &
defer kill $!
wait_for 30 proxy_answers || die 'no proxy'

# Registry answers: of a meta layer, then of the layer's ranges.
start_helper --decoders 3
layer=$(sha256sum < "$DISK/layer.tar.gz" | cut -c1-64)
echo flip -1 > "$mode"
check 'a meta layer with a flipped bit is refused' not attach
echo none 0 > "$mode"
check 'attach' attach || die 'nothing to read'
meta=$(find /var/lib/fastoci/images -name meta.img | head -n 1)
cp "$meta" "$DISK/meta.img"
echo flip 2 "$layer" > "$mode"
check 'ranges with a flipped bit are fetched again' same
check 'and counted' test "$(counter mismatches)" -ge 1
matches 'and reported' "$(cat "$WORK/helper.log")" "$layer.*(digest of data bytes|decode:)"

# The cache file: a bit in every fourth slot that is used, while no helper looks.
wait_for 20 durable || die 'not durable'
fastoci -q detach --keep "$mnt"
stop_helper
cache=$(losetup -nO NAME -j "$CACHE_DIR/cache.img")
flipped=$("$PYTHON" - "$CACHE_DIR/cache.db" "$cache" "$seed" <<-'PY'
	import os, random, sqlite3, sys
	rnd, fd = random.Random(int(sys.argv[3])), os.open(sys.argv[2], os.O_RDWR)
	slots = [s for s, in sqlite3.connect(sys.argv[1]).execute("select slot from slots order by slot")][::4]
	for slot in slots:
	    at = (slot + 1) * 65536 + rnd.randrange(8192)
	    byte = os.pread(fd, 1, at)[0]
	    os.pwrite(fd, bytes([byte ^ 1 << rnd.randrange(8)]), at)
	os.fsync(fd)
	print(len(slots))
	PY
)
start_helper --decoders 3
check "attach again, with $flipped flipped slots" attach || die 'nothing to read'
check 'every byte is right' same
wait_for 20 durable
is 'and each flip was found' "$(counter rotten)" "$flipped"
fastoci -q detach "$mnt"
stop_helper
losetup -d "$cache"

# The assembled meta image.
note "seed $seed"
echo '{"gzipCacheConfig": {"enable": false}}' > "$WORK/config.json"
modprobe -r brd; must modprobe brd rd_nr=1 rd_size=65536
rm -rf "$CACHE_DIR"
start_helper --decoders 3 --config "$WORK/config.json" --miss-deadline-ms 200
cache=$(helper_stat cache_device)
ktap_of "$PYTHON" "$SELFTESTS/lib/flips.py" "$DISK/meta.img" "$DISK/layer.tar.gz" /dev/ram0 "$cache" "$WORK/helper.log" \
	"$BIN/fastoci" "${FLIPS_POINTS:-14}" "$seed"
check 'the helper ends' stop_helper
losetup -d "$cache"
stop_registry
check 'nothing is left' nothing_left
finish
