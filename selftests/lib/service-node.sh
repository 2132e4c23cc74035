#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs in the machine of bench-service: STORE IMAGE ANSWER MBIT RTT_MS INFLATE_S. A registry with what is in STORE behind a
# slow link, and one image pulled and run in each way. Prints a line of JSON for each: seconds of the three phases, and bytes.
#   pull    until containerd has the image (FastOCI: what a pull downloads of it)
#   create  the container and its root file system
#   run     until its service gives the right answer
# INFLATE_S: what inflation takes where CPUs are as fast as they should be. The link gets as much slower as this machine is;
# with 0 it does not.
store=$1 image_name=$2 answer=$3 mbit=$4 rtt_ms=$5 inflate_s=$6
# shellcheck source=selftests/lib/umlnode.sh
. "$(dirname "$0")/umlnode.sh"
image=$REGISTRY/$image_name
# What a trace named is counted as used if the container reads it within so many seconds.
configure() { # SECONDS
	echo "{\"prefetch\": {\"seconds\": $1}, \"exporterConfig\": {\"enable\": true}}" > "$WORK/snapshotter.json"
}
configure 30

# The registry's answers are delayed by the round trip, and nothing else is.
slow_link() {
	mbit=$(awk -v m="$mbit" -v s="$scale" 'BEGIN { print m / s }')
	rtt_ms=$(awk -v r="$rtt_ms" -v s="$scale" 'BEGIN { print r * s }')
	modprobe -qa sch_prio sch_netem cls_u32
	must tc qdisc add dev lo root handle 1: prio
	must tc qdisc add dev lo parent 1:3 handle 30: netem rate "${mbit}mbit" delay "${rtt_ms}ms" limit 100
	must tc filter add dev lo parent 1: protocol ip u32 match ip sport "${REGISTRY##*:}" 0xffff flowid 1:3
}
link_bytes() { tc -s -j qdisc show dev lo | jq 'map(select(.kind == "netem"))[0].bytes'; } # that it has carried
link_mbit() { # as one download sees it
	local bytes_per_s
	bytes_per_s=$(curl -s -r 0-4194303 -o /dev/null -w '%{speed_download}' "http://$REGISTRY/v2/$image_name/blobs/$1")
	awk -v b="$bytes_per_s" 'BEGIN { printf "%.1f", b * 8 / 1e6 }'
}
# A client that costs no process: a bash that waits on a pipe to which nobody writes.
mkfifo "$WORK/never" && exec 9<> "$WORK/never"
last_line() {
	local line=''
	printf 'GET / HTTP/1.0\r\n\r\n' >&3
	while read -r line <&3 || [ -n "$line" ]; do last=$line; done
}
answered() {
	local last=''
	{ last_line; } 3<> /dev/tcp/127.0.0.1/8000
	[ "$last" = "$answer" ]
} 2> /dev/null
until_answered() {
	local end=$((SECONDS + 900))
	until answered; do
		[ $SECONDS -lt $end ] || die "$image_name: no right answer: $(curl -s -m 5 http://127.0.0.1:8000/ | head -c 300)"
		read -rt 0.02 -u 9
	done
}
# start SNAPSHOTTER IMAGE: sets created and ready
start() {
	must ctr containers create --snapshotter "$1" --net-host "$2" service
	created=$EPOCHREALTIME
	must ctr tasks start -d service
	until_answered
	ready=$EPOCHREALTIME
}
stop() { remove_app service; }
fetched_bytes() { echo $(($(counter bytes_fetched) + ${pulled_bytes:-0})); }
result() { # WAY BEGIN PULLED MORE_JSON
	jq -nc --arg way "$1" --argjson more "$4" "{way: \$way, pull_s: $(seconds "$2" "$3"), create_s: $(seconds "$3" "$created"),
		run_s: $(seconds "$created" "$ready"), total_s: $(seconds "$2" "$ready"),
		link_bytes: $(($(link_bytes) - carried))} + \$more" >&4
}
pull_and_start() { # WAY: by FastOCI
	local pulled
	carried=$(link_bytes)
	begin=$EPOCHREALTIME
	must "$BIN/fastoci" rpull -a "$CONTAINERD" --json "$image:fast" > "$WORK/rpull.json"
	pulled=$EPOCHREALTIME
	start fastoci "$image:fast"
	pulled_bytes=$(jq .fetched_bytes "$WORK/rpull.json")
	result "$1" "$begin" "$pulled" "{\"bytes\": $(fetched_bytes), \"misses\": $(counter misses)}"
}

full() {
	local begin pulled
	carried=$(link_bytes)
	begin=$EPOCHREALTIME
	must ctr images pull --plain-http --snapshotter overlayfs "$image:latest" > "$WORK/pull.log"
	pulled=$EPOCHREALTIME
	start overlayfs "$image:latest"
	result full "$begin" "$pulled" '{}'
}
warm() {
	local begin
	drop_caches
	carried=$(link_bytes)
	begin=$EPOCHREALTIME
	start fastoci "$image:fast"
	result warm "$begin" "$begin" '{}'
}
unused() { metric 'prefetch_bytes_total{result="unused"}'; }
counted() { [ "$(metric 'prefetch_bytes_total{result="used"}')" -gt 0 ]; }
# Of each blob, how many bytes of its data the trace names: {DIGEST: BYTES}
touched() {
	awk '$1 == "blob" { blob[n++] = $2; next } NF == 3 { sum[$1] += $3 * 512 }
		END { for (i = 0; i < n; i++) printf "%s\"%s\": %d", i ? ", " : "{", blob[i], sum[i]; print n ? "}" : "{}" }' "$SNAP_ROOT"/starts/*
}
traced() {
	fresh_node --config "$WORK/snapshotter.json"
	must "$BIN/fastoci" record -a "$CONTAINERD" --drop-caches --net-host --until-url http://127.0.0.1:8000/ --seconds 600 \
		--json "$image:fast" > "$WORK/record.json"
	local length=$((${cold_s%.*} + 20))
	configure $length
	fresh_node --config "$WORK/snapshotter.json"
	pull_and_start traced
	wait_for $((length + 30)) counted
	echo "{\"way\": \"trace\", \"trace_bytes\": $(jq .bytes "$WORK/record.json"), \"useless_bytes\": $(unused), \"touched\": $(touched)}" >&4
	stop
}

"$PYTHON" "$SELFTESTS/lib/machinespeed.py" > "$WORK/speed.json"
jq -c '{way: "machine"} + .' "$WORK/speed.json" >&4
scale=$(jq --argjson n "$inflate_s" 'if $n == 0 then 1 else .inflate_s / $n end' "$WORK/speed.json")
# Where the host's files are slow to read, all ways would pay for it.
if [ -b /dev/vda ]; then use_disk && cp -r "$store" "$DISK/registry" && store=$DISK/registry; fi
start_registry "$store"
slow_link
layer=$(skopeo inspect --raw --tls-verify=false "docker://$image:latest" | jq -r '.layers[0].digest')
echo "{\"way\": \"link\", \"mbit\": $(link_mbit "$layer"), \"scale\": $scale}" >&4
fresh_node --config "$WORK/snapshotter.json"
full
stop
fresh_node --config "$WORK/snapshotter.json"
pull_and_start cold
cold_s=$(seconds "$begin" "$ready")
stop
warm
stop
if "$BIN/fastoci" record --help > /dev/null 2>&1; then
	traced
else
	echo '{"way": "traced", "skipped": "this build has no fastoci record"}' >&4
fi
finish
