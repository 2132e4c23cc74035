#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A registry that fails, lies or hangs. While it does not serve, reads wait and it is said for what; afterwards they are
# right. What no time mends is an error that names blob, range and cause.
# once: what the helper fetches
# vm: -m 2G
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry skopeo jq "$BIN/fastoci" "$BIN/convertor" "$BIN/fastoci-helperd"

proxy=127.0.0.1:5001 mode=$WORK/mode mnt=$WORK/mnt
size=$((1280 * 1024)) middle=160 # in blocks of 4096: far from both ends of a file
# mode, and what the error says: no time mends these
fatal=('404   HTTP 404'
	'range Content-Range is')
# mode, and what is said of the host: reads wait as long as these last
held=('401   HTTP 401'
	'403   HTTP 403'
	'500   HTTP 500'
	'503   HTTP 503'
	'hang  .'
	'short .'
	'close .')
# A retry may get round these: right data or an error.
passing=(flip full)
say() { echo "$1 $2" > "$mode"; }
# read_part FILE: the block in its middle, directly, as it should be
read_part() {
	dd if="$mnt/$1" bs=4096 skip=$middle count=1 iflag=direct 2>/dev/null > "$WORK/part" &&
		cmp "$WORK/part" <(dd if="$DISK/files/$1" bs=4096 skip=$middle count=1 2>/dev/null)
}
proxy_answers() { curl -s -o /dev/null "http://$proxy/v2/"; }

load_module
start_registry
mkdir -p "$DISK/layout"
must "$PYTHON" "$SELFTESTS/lib/mkpatches.py" "$DISK/files" "$DISK/layer.tar.gz" $((2 * (${#fatal[@]} + ${#held[@]} + ${#passing[@]}))) $size
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" latest "$DISK/layer.tar.gz"
push_image "$DISK/layout:latest" faults:latest
convert faults latest latest_fastoci
layer=$(sha256sum < "$DISK/layer.tar.gz" | cut -c1-64)
say none 0
"$PYTHON" "$SELFTESTS/lib/faultproxy.py" 5001 5000 "$mode" > "$WORK/proxy.log" 2>&1 &
defer kill $!
wait_for 30 proxy_answers || die 'no proxy'
# A second instead of a minute between two rounds, half a second at most between two tries of a host; nothing is fetched that
# was not asked for.
jq -n '{wholeLayerKB: 0, readaheadMB: 0}' > "$WORK/config.json"
start_helper --config "$WORK/config.json" --decoders 3 --retry-scale 2
check 'attach through the proxy' fastoci attach $proxy/faults:latest_fastoci --plain --mount "$mnt" || die 'nothing to read'
number=0
take_files() { file=$(printf %02d $number) next=$(printf %02d $((number + 1))) number=$((number + 2)); }
# once FAULT FILE: a single one costs nothing
once() { say "$1" 1; check "$1: a single fault costs nothing" read_part "$2"; say none 0; }
for fault in "${fatal[@]}"; do
	read -r name cause <<<"$fault"
	take_files
	lines=$(wc -l < "$WORK/helper.log")
	say "$name" -1
	begin=$(now_ms)
	check "$name: a read fails" not read_part "$file"
	took=$(($(now_ms) - begin))
	is "$name: with nothing read" "$(stat -c %s "$WORK/part")" 0
	check "$name: within the policy ($took ms)" test $took -lt 60000
	tail -n +$((lines + 1)) "$WORK/helper.log" > "$WORK/said"
	matches "$name: the error names the blob, the range and the cause" \
		"$(grep 'giving up' "$WORK/said")" "blob sha256:$layer bytes [0-9]+-[0-9]+: $proxy.*$cause"
	say none 0
	check "$name: the same read is right when the fault is over" read_part "$file"
	once "$name" "$next"
done
waits_for() { fastoci status --json | jq -r '.helper.images[].waits_for[] | .host + ": " + .cause'; }
waits() { [[ $(waits_for) =~ $1 ]]; }
for fault in "${held[@]}"; do
	read -r name cause <<<"$fault"
	take_files
	fails=$(counter fails)
	say "$name" -1
	read_part "$file" > "$WORK/compared" 2>&1 &
	reader=$!
	check "$name: status says for what a read waits" wait_for 40 waits "$cause"
	matches "$name: by the host's name" "$(waits_for)" "http://$proxy: "
	matches "$name: so does ps" "$(fastoci top --once 2>&1)" "waits for http://$proxy: "
	check "$name: the read is still waiting" kill -0 $reader
	is "$name: nothing failed" "$(counter fails)" "$fails"
	say none 0
	check "$name: the read ends with the fault" wait_for 60 not kill -0 $reader
	wait $reader
	is "$name: and it is right" $? 0
	once "$name" "$next"
done
for name in "${passing[@]}"; do
	take_files
	say "$name" -1
	begin=$(now_ms)
	read_part "$file" > "$WORK/compared" 2>&1
	status=$?
	took=$(($(now_ms) - begin))
	check "$name: right data or none" test $status = 0 -o "$(stat -c %s "$WORK/part")" = 0
	check "$name: within the policy ($took ms)" test $took -lt 60000
	say none 0
	check "$name: right when the fault is over" read_part "$file"
	once "$name" "$next"
done
check 'what is there is all right' bash -c "for f in '$DISK'/files/*; do cmp \$f '$mnt'/\${f##*/} || exit 1; done"
check 'the tries of single requests are counted' test "$(counter request_retries)" -gt 0 -a "$(counter requests)" -gt "$(counter request_retries)"
check 'detach' fastoci detach faults-latest_fastoci
check 'the helper ends' stop_helper
losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"
stop_registry
check 'nothing is left' nothing_left
finish
