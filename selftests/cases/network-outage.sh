#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A network that is away fails no read: an hour of it by the clock of the retries, which runs a hundred times as fast here, and
# outages at random, while the helper and its roles are killed; Retry-After; a second location.
# OUTAGE_SECONDS=20, OUTAGE_SEED: how long it goes down and up, and in which order.
# once: what the helper does without a network
# vm: -m 2G
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry skopeo jq "$BIN/fastoci" "$BIN/convertor" "$BIN/fastoci-helperd"

proxy=127.0.0.1:5001 mode=$WORK/mode mnt=$WORK/mnt size=$((1280 * 1024)) nr_files=28 middle=160 # a span or more each
nr_random=20 # of them are read at random, too
say() { echo "$1 $2" > "$mode"; }
proxy_answers() { curl -s -o /dev/null "http://$proxy/v2/"; }
proxy_up() {
	"$PYTHON" "$SELFTESTS/lib/faultproxy.py" 5001 5000 "$mode" "$WORK/requests" >> "$WORK/proxy.log" 2>&1 &
	proxy_pid=$!
	wait_for 120 proxy_answers || die 'no proxy'
}
proxy_down() { kill -9 "$proxy_pid" 2>/dev/null; wait "$proxy_pid" 2>/dev/null; }
defer proxy_down
kill_roles() { # NAME: those of the helper that are so named
	local child
	for child in $(cat /proc/"$helper_pid"/task/*/children 2>/dev/null); do
		[[ $(cat /proc/"$child"/comm 2>/dev/null) == fastoci-$1* ]] && kill -9 "$child"
	done
}
# right FILE: the block in its middle, directly, is as it should be
right() {
	cmp <(dd if="$mnt/$1" bs=4096 skip=$middle count=1 iflag=direct 2>/dev/null) \
		<(dd if="$DISK/files/$1" bs=4096 skip=$middle count=1 2>/dev/null)
}
next=0
take_file() { printf -v file %02d $next; next=$((next + 1)); }
host() { fastoci status --json | jq -r ".helper.hosts[] | select(.host == \"http://$proxy\") | $1"; }
host_is() { [ "$(host .state)" = "$1" ]; }
tried() { test "$(host .fetches.transient)" -ge "$1"; }
failed_none() { is "$1: no read failed" "$(counter fails)" 0; }

load_module
start_registry
mkdir -p "$DISK/layout"
must "$PYTHON" "$SELFTESTS/lib/mkpatches.py" "$DISK/files" "$DISK/layer.tar.gz" $nr_files $size
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" latest "$DISK/layer.tar.gz"
push_image "$DISK/layout:latest" outage:latest
convert outage latest latest_fastoci
say none 0
proxy_up
jq -n '{wholeLayerKB: 0, readaheadMB: 0}' > "$WORK/config.json"
helper_options=(--cache-size-mb 8)
scale=1 hour=36 # percent, and seconds by that
serve() { start_helper --config "$WORK/config.json" --retry-scale $scale; }
serve
check 'attach through the proxy' fastoci attach $proxy/outage:latest_fastoci --plain --mount "$mnt" || die 'nothing to read'
take_file
check 'a read is right' right $file

# An hour, with the fetcher killed in it.
proxy_down
end=$((SECONDS + hour))
readers=()
for _ in 1 2 3 4 5 6; do
	take_file
	right $file & readers+=($!)
done
check 'an hour away: it is said' wait_for 60 tried 5
kill_roles fetcherd
check 'an hour away: and tried again by the next fetcher, too' wait_for 60 tried 5
while [ $SECONDS -lt $end ]; do sleep 1; done
waiting=0
for reader in "${readers[@]}"; do kill -0 "$reader" && waiting=$((waiting + 1)); done
is 'an hour away: each reader waits' $waiting ${#readers[@]}
failed_none 'an hour away'
proxy_up
status=0
for reader in "${readers[@]}"; do wait "$reader" || status=1; done
is 'an hour away: all reads are right afterwards' $status 0
failed_none 'afterwards'

# Down and up at random under readers whose image is four times the cache, while the helper or its roles are killed.
reader() { # reader SEED: reads blocks of the files at random until the stop file is there, and prints how many
	"$PYTHON" - "$1" "$mnt" "$DISK/files" "$WORK/stop" $nr_random $size <<-'PY'
	import mmap, os, random, sys
	rng, buf, reads = random.Random(int(sys.argv[1])), mmap.mmap(-1, 4096), 0
	mnt, files, stop, nr_files, size = *sys.argv[2:5], int(sys.argv[5]), int(sys.argv[6])
	while not os.path.exists(stop):
	    name, at = f"{rng.randrange(nr_files):02d}", rng.randrange(size // 4096) * 4096
	    fd, want = os.open(f"{mnt}/{name}", os.O_RDONLY | os.O_DIRECT), os.open(f"{files}/{name}", os.O_RDONLY)
	    if os.preadv(fd, [buf], at) != 4096 or buf[:] != os.pread(want, 4096, at):
	        sys.exit(f"wrong bytes in {name} at {at}")
	    os.close(fd), os.close(want)
	    reads += 1
	print(reads)
	PY
}
readers=()
for n in 1 2 3 4; do
	reader $n > "$WORK/reader$n.log" 2>&1 & readers+=($!)
done
RANDOM=${OUTAGE_SEED:=$$}
is_up=1 outages=0 roles=0 helpers=0 end=$((SECONDS + ${OUTAGE_SECONDS:-20}))
# A slow machine does few things in that time: an outage is the first.
for ((what = 0; SECONDS < end; what = RANDOM % 6)); do
	case $what in
	0 | 1 | 2)
		if [ $is_up = 1 ]; then proxy_down; outages=$((outages + 1)); else proxy_up; fi
		is_up=$((1 - is_up))
		;;
	3) kill_roles fetcherd; roles=$((roles + 1)) ;;
	4) kill_roles decoderd; roles=$((roles + 1)) ;;
	5) kill_helper; serve; helpers=$((helpers + 1)) ;;
	esac
	sleep 0.$((RANDOM % 10))
done
[ $is_up = 1 ] || proxy_up
touch "$WORK/stop"
status=0
for reader in "${readers[@]}"; do wait "$reader" || status=1; done
note "seed $OUTAGE_SEED: $outages outages, $roles roles and $helpers helpers killed; reads: $(cat "$WORK"/reader?.log | tr '\n' ' ')"
is 'down and up: all reads are right' $status 0
check 'down and up: there were outages' test $outages -gt 0
failed_none 'down and up'

# A host that names a time is not asked before.
kill_helper
scale=5
serve
next=$nr_random
: > "$WORK/requests"
say later:200 1 # ten seconds, by the scale of the retries
take_file
right $file & reader=$!
check 'Retry-After: the host is gated' wait_for 30 host_is gated
wait $reader
is 'Retry-After: the read is right' $? 0
cat > "$WORK/later.py" <<'EOF'
import sys
lines = [line.split() for line in open(sys.argv[1])]
told = next(float(t) for t, mode in lines if mode.startswith("later"))
after = [float(t) for t, mode in lines if float(t) > told]
print(f"told at {told}, then asked at {after}")
sys.exit(0 if after and min(after) - told > 9.9 else 1)
EOF
check 'Retry-After: nothing is asked before its time' "$PYTHON" "$WORK/later.py" "$WORK/requests"

# Another image has the layer from elsewhere.
say 503 -1
take_file
right $file & reader=$!
check 'a second location: the first one is waited for' wait_for 30 not host_is open
check 'a second location: attach' fastoci attach $REGISTRY/outage:latest_fastoci --plain --name other --mount "$WORK/other"
wait $reader
is 'a second location: serves the read that waited' $? 0
take_file
check 'a second location: and the next one, while the first is gated' right $file
host_is open && not_ok 'the first one served'
say none 0
failed_none 'at the end'
check 'detach' fastoci detach other
check 'detach' fastoci detach outage-latest_fastoci
check 'the helper ends' stop_helper
losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"
proxy_down
stop_registry
check 'nothing is left' nothing_left
finish
