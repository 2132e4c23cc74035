#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Start traces: recorded to a file, for a workload, by overlaybd's labels; replayed from the registry, from a file, from
# overlaybd's trace layer; what was of use is counted. (The case containerd records one and pulls the image again.)
# more: it takes minutes
# once: what it tests does not depend on the kernel
# One CPU: QEMU now and then runs code that the kernel patches for the first memory cgroup on the other one (int3).
# vm: -m 3G -c 1
# timeout: 900
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/containerd.sh
. "$SELFTESTS/lib/containerd.sh"
requires docker-registry skopeo jq containerd ctr runc setfattr "$BIN/fastoci-snapshotter"

image=$REGISTRY/app
label=containerd.io/snapshot
load_module
modprobe overlay
app_registry
start_helper
echo '{"prefetch": {"seconds": 30}, "exporterConfig": {"enable": true}}' > "$WORK/snapshotter.json"
start_snapshotter --config "$WORK/snapshotter.json"
start_containerd
prefetched() { metric "prefetch_bytes_total{result=\"$1\"}"; }
replays() { grep -c 'reads ahead what its start reads' "$WORK/snapshotter.log"; }
one_more_replay() { [ "$(replays)" -gt "$1" ]; }
some_used() { [ "$(prefetched used)" -gt 0 ]; }

# An attached image, without containerd.
check 'attached: attach' "$BIN/fastoci" attach "$image:fast" --name rec --mount "$WORK/rec"
matches 'attached: without a trace, --prefetch is a warning' \
	"$("$BIN/fastoci" attach "$image:fast" --name rec --prefetch 2>&1)" 'nothing is read ahead: .*no start trace'
check 'attached: record to a file' record --attached rec -o "$WORK/rec.trace" -- /bin/cat "$WORK/rec/www/index.html"
is 'attached: that is a trace, of one small file' "$(head -n 1 "$WORK/rec.trace") $(recorded '.ended_by, .bytes <= 131072')" \
	'fastoci-start 2 exit true'
matches 'attached: a URL that does not answer is said' \
	"$(record --attached rec --until-url http://127.0.0.1:1/ --seconds 1 2>&1 || cat "$WORK/record.json")" \
	'did not answer with success within 1 s'
check 'attached: record for a workload' record --attached rec --workload sums -- /bin/cat "$WORK/rec/etc/sums"
matches 'attached: a name that is none is refused' "$(record --attached rec --workload ../x 2>&1 || cat "$WORK/record.json")" \
	'no name of a workload'
check 'attached: detach' "$BIN/fastoci" detach rec
check 'attached: copied with its image' "$BIN/fastoci" copy --plain "$image:fast" "$REGISTRY/copied:fast"
fresh_cache
is 'attached: with --prefetch, the trace of the copy is read ahead' \
	"$("$BIN/fastoci" attach "$REGISTRY/copied:fast" --name rec --prefetch --workload sums --json | jq '.prefetch_bytes > 0')" true
matches 'attached: not that of another workload' \
	"$("$BIN/fastoci" attach "$REGISTRY/copied:fast" --name rec --prefetch 2>&1)" 'nothing is read ahead: .*no start trace'
fetched() { [ "$(counter bytes_fetched)" -gt 0 ]; }
check 'attached: it is fetched, although nobody reads' wait_for 60 fetched
check 'attached: detach again' "$BIN/fastoci" detach rec

# A container that runs is watched, and the trace replayed by a workload's name.
check 'watched: rpull' rpull "$image:fast"
check 'watched: ctr run' run_app "$image:fast" fast
check 'watched: it answers' wait_for 60 answers
(sleep 3; echo 3 > /proc/sys/vm/drop_caches; answers) & # it reads what it has read before
check 'watched: record' record --container fast --workload web --seconds 15 "$image:fast"
wait $!
note "recorded: ended by, runs, bytes, lost: $(recorded '.ended_by, .runs, .bytes, .lost')"
check 'watched: removed' remove_app fast
check 'watched: no device is left' wait_for 60 no_dm_devices
fresh_cache
check 'watched: ctr run for the workload' run_app "$image:fast" fast --snapshotter-label $label/fastoci/workload=web
check 'watched: its trace is taken' wait_for 20 said 'the registry has a start trace'
check 'watched: it answers again' wait_for 60 answers
check 'watched: what was of use is counted' wait_for 60 some_used
note "prefetched: present $(prefetched present), used $(prefetched used), unused $(prefetched unused)"
check 'watched: removed again' remove_app fast

# overlaybd's labels: an empty file is written, another one replayed.
trace=$WORK/trace
: > "$trace"
record_labels=(--snapshotter-label "$label/overlaybd/record-trace=yes" --snapshotter-label "$label/overlaybd/record-trace-path=$trace")
check 'record-trace: rpull' rpull "$image:native"
check 'record-trace: ctr run' run_app "$image:native" native "${record_labels[@]}"
check 'record-trace: it answers' wait_for 60 answers
is 'record-trace: it is recorded meanwhile' "$(ls "$trace"*)" "$(printf '%s\n' "$trace" "$trace.lock")"
rm -f "$trace.lock"
check 'record-trace: the trace is complete' wait_for 30 test -e "$trace.ok"
is 'record-trace: and is one' "$(head -n 1 "$trace")" 'fastoci-start 2'
check 'record-trace: removed' remove_app native
check 'record-trace: no device is left' wait_for 60 no_dm_devices
fresh_cache
before=$(replays)
check 'record-trace: ctr run with that file' run_app "$image:native" native "${record_labels[@]}"
check 'record-trace: it is replayed' wait_for 30 one_more_replay "$before"
check 'record-trace: it answers again' wait_for 60 answers
check 'record-trace: removed again' remove_app native
check 'record-trace: no device is left again' wait_for 60 no_dm_devices
fresh_cache

# overlaybd's trace layer: reads of 100 kB of each layer's file.
mkdir "$WORK/layer"
"$PYTHON" "$SELFTESTS/lib/overlaybdtrace.py" "$WORK/layer/trace" {1,2,3}:512:100000
tar -C "$WORK/layer" -czf "$WORK/trace.tar.gz" trace
check 'trace layer: pushed' "$PYTHON" "$SELFTESTS/lib/addlayer.py" "$image" native traced "$WORK/trace.tar.gz" acceleration-layer=yes
before=$(replays)
check 'trace layer: rpull' rpull "$image:traced"
check 'trace layer: it is replayed before there is a container' wait_for 60 one_more_replay "$before"
check 'trace layer: what it names is fetched' wait_for 60 read_ahead
matches 'trace layer: the snapshot is one of a trace' "$(kinds)" '1 trace'
check 'trace layer: ctr run' run_app "$image:traced" traced
check 'trace layer: it answers' wait_for 60 answers
check 'trace layer: removed' remove_app traced

check 'the images are removed' remove_images "$image:fast" "$image:native" "$image:traced"
nothing_of_ours
finish
