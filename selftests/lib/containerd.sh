# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# containerd.sh - for the cases with containerd: it, the snapshotter, and an image whose application answers over HTTP.
# Source it after lib.sh.
CONTAINERD=$WORK/containerd.sock SNAPSHOTTER=$WORK/snapshotter.sock
SNAP_ROOT=$DISK/snapshotter
snapshotter_options=()

# CONTAINERD_TREE: where another release's containerd is unpacked (selftests/nodetest-containerd). There it runs, with its runc,
# and sees the machine's /run, where all is that a case makes. A chroot is not enough: `runc exec` would enter the machine's root.
TREE=/tree in_tree=(command) as_root_of_tree=(command)
enter_tree() {
	[ -n "${CONTAINERD_TREE:-}" ] && ! mountpoint -q $TREE || return 0
	mkdir $TREE
	must mount --bind "$CONTAINERD_TREE" $TREE # a mount in one that is not shared: pivot_root wants both
	must mount --make-rshared /run
	for dir in proc sys dev run; do must mount --rbind /$dir $TREE/$dir; done
	mkdir -p $TREE/old
	cp -L /etc/hosts /etc/resolv.conf $TREE/etc/ # containers get them
	in_tree=(chroot $TREE)
	as_root_of_tree=(unshare --mount --propagation unchanged sh -c "cd $TREE && pivot_root . old && exec \"\$@\"" sh)
}
ctr() { "${in_tree[@]}" ctr -a "$CONTAINERD" -n "${name_space:-default}" "$@"; }
containerd_version() { "${in_tree[@]}" containerd --version | awk '{ print $3 }'; }
start_cri() {
	"$PYTHON" "$SELFTESTS/lib/cri.py" "$CONTAINERD" "$WORK/cri.sock" > "$WORK/cri.log" 2>&1 &
	defer kill $!
	wait_for 60 test -S "$WORK/cri.sock" || die 'the CRI client does not start'
}
cri() { # a command of cri.py
	jq -cn '$ARGS.positional' --args -- "$@" |
		curl -s --fail-with-body --unix-socket "$WORK/cri.sock" --data-binary @- http://cri/
}
rpull() { "$BIN/fastoci" rpull -a "$CONTAINERD" -q "$@"; }
containerd_ready() { ctr version; }
snapshotter_ready() { [ -S "$SNAPSHOTTER" ] && grep -q 'serving on' "$WORK/snapshotter.log"; }

# cri FILE: a part of containerd's configuration for its CRI plugin; without: it is not loaded
start_containerd() { # [CRI_TOML]
	use_disk
	enter_tree
	mkdir -p "$DISK/containerd" "$WORK/containerd"
	cat > "$WORK/containerd.toml" <<-TOML
	version = 2
	root = "$DISK/containerd"
	state = "$WORK/containerd"
	disabled_plugins = [$([ -n "${1-}" ] || echo '"io.containerd.grpc.v1.cri"')]
	[grpc]
	  address = "$CONTAINERD"
	[proxy_plugins.fastoci]
	  type = "snapshot"
	  address = "$SNAPSHOTTER"
	[proxy_plugins.fastoci.exports]
	  root = "$SNAP_ROOT"
	  enable_remote_snapshot_annotations = "true"
	[[plugins."io.containerd.transfer.v1.local".unpack_config]]
	  platform = "linux/amd64"
	  snapshotter = "fastoci"
	${1+$(cat "$1")}
	TOML
	"${as_root_of_tree[@]}" containerd -c "$WORK/containerd.toml" >> "$WORK/containerd.log" 2>&1 &
	containerd_pid=$!
	[ -n "${containerd_deferred:-}" ] || defer stop_containerd
	containerd_deferred=1
	wait_for 120 containerd_ready || die "containerd does not answer"
}
stop_containerd() {
	[ -n "${containerd_pid:-}" ] || return 0
	kill "$containerd_pid" 2>/dev/null
	wait "$containerd_pid" 2>/dev/null
	containerd_pid=
}
kill_containerd() { # -9; what it started runs on
	kill -KILL "$containerd_pid"
	wait "$containerd_pid" 2>/dev/null
	containerd_pid=
}
start_snapshotter() { # [more options]
	use_disk
	: > "$WORK/snapshotter.log"
	"$BIN/fastoci-snapshotter" serve --address "$SNAPSHOTTER" --root "$SNAP_ROOT" "${snapshotter_options[@]}" "$@" \
		> "$WORK/snapshotter.log" 2>&1 &
	snapshotter_pid=$!
	[ -n "${snapshotter_deferred:-}" ] || defer stop_snapshotter
	snapshotter_deferred=1
	wait_for 60 snapshotter_ready || die "the snapshotter is not ready"
}
stop_snapshotter() {
	[ -n "${snapshotter_pid:-}" ] || return 0
	kill -TERM "$snapshotter_pid" 2>/dev/null
	wait "$snapshotter_pid" 2>/dev/null
	local status=$?
	snapshotter_pid=
	return $status
}
kill_snapshotter() {
	kill -KILL "$snapshotter_pid"
	wait "$snapshotter_pid" 2>/dev/null
	snapshotter_pid=
}

# app_registry: a registry with what selftests/prepare made
APP=$TOP/build/selftests/app
app_registry() {
	[ -e "$APP/done" ] || die 'selftests/prepare has not run'
	use_disk
	cp -r "$APP/registry" "$DISK/"
	start_registry
}
answers() { [ "$(curl -s -m 10 "http://127.0.0.1:8000/")" = 'the answer' ]; }
server=(/bin/httpd -f -p 8000 -h /www) # the application
# run_app IMAGE NAME [options of ctr run]: in the background, with the machine's network
run_app() {
	ctr run --snapshotter "${snapshotter_name:-fastoci}" --net-host -d "${@:3}" "$1" "$2" "${server[@]}"
}
task_gone() { ! ctr task ls | grep -q "^$1 "; }
remove_app() { # NAME
	ctr task kill -s KILL "$1"
	wait_for 30 ctr task rm -f "$1"
	wait_for 30 task_gone "$1"
	ctr container rm "$1"
}
# chain_of IMAGE: the name of its top snapshot
chain_of() {
	local manifest config
	manifest=$(ctr images ls "name==$1" | awk 'NR == 2 { print $3 }')
	config=$(ctr content get "$manifest" | jq -r .config.digest)
	ctr content get "$config" | "$PYTHON" -c 'import functools, hashlib, json, sys
print(functools.reduce(lambda a, b: "sha256:" + hashlib.sha256(f"{a} {b}".encode()).hexdigest(), json.load(sys.stdin)["rootfs"]["diff_ids"]))'
}
# image_tree IMAGE FILE: of a read-only view of the image, as treelist.py tells it, but for the root directory, of which no
# layer tells anything
image_tree() {
	local dir=$WORK/view name=${snapshotter_name:-fastoci} status=0
	mkdir -p "$dir"
	ctr snapshots --snapshotter "$name" view tree-view "$(chain_of "$1")" || return 1
	ctr snapshots --snapshotter "$name" mounts "$dir" tree-view | sh -eu &&
		"$PYTHON" "$SELFTESTS/lib/treelist.py" "$dir" | tail -n +2 > "$2" || status=1
	umount "$dir" || status=1
	ctr snapshots --snapshotter "$name" rm tree-view || status=1
	return $status
}
same_image_tree() { # IMAGE WANTED
	image_tree "$1" "$WORK/got" && diff "$2" "$WORK/got" > "$WORK/diff" || { head -n 20 "$WORK/diff"; return 1; }
}
# fresh_cache: another helper, whose cache holds nothing; nothing is attached
fresh_cache() {
	stop_helper
	losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"
	rm -rf "$CACHE_DIR"
	start_helper
}
# The helper has fetched as much as a start of the application reads.
read_ahead() { [ "$(counter bytes_fetched)" -ge 200000 ]; }
record() { "$BIN/fastoci" record -a "$CONTAINERD" --drop-caches --json "$@" > "$WORK/record.json"; }
recorded() { jq -r "[$1] | join(\" \")" "$WORK/record.json"; } # FIELDS
# remove_images IMAGE...: and waits until containerd's garbage collector has been there
remove_images() { ctr images rm --sync "$@"; }
no_snapshots() { [ -z "$(ls "$SNAP_ROOT/snapshots")" ]; }
no_fastoci_mounts() { ! grep -q "$SNAP_ROOT" /proc/self/mountinfo; }
# kinds: of the committed snapshots, how many of each
kinds() { "$PYTHON" -c 'import json, sqlite3, sys
for name, layer in sqlite3.connect(sys.argv[1]).execute("SELECT name, layer FROM snapshots WHERE kind = 3 ORDER BY id"):
    print(json.loads(layer)["kind"] if layer else "ordinary")' "$SNAP_ROOT/metadata.db" | sort | uniq -c | xargs; }
metric() { curl -s http://127.0.0.1:9864/metrics | sed -n "s/^fastoci_snapshotter_$1 //p"; }
said() { grep -qE -- "$1" "$WORK/snapshotter.log"; }
no_rows() { [ -z "$("$PYTHON" -c 'import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute("SELECT name FROM snapshots"))' "$SNAP_ROOT/metadata.db")" ]; }
no_images_attached() { [ -z "$(ls "$SNAP_ROOT/devices" "$SNAP_ROOT/mounts" 2>/dev/null | grep ctd-)" ]; }
# nothing_of_ours: all containers and images were removed; now the rest ends, and nothing is left
nothing_of_ours() {
	check 'no snapshot is left' wait_for 60 no_snapshots
	check 'no row' no_rows
	check 'no mount' wait_for 60 no_fastoci_mounts
	check 'no device' wait_for 60 no_dm_devices
	check 'nothing that was kept of devices' wait_for 60 no_images_attached
	check 'containerd ends' stop_containerd
	check 'the snapshotter ends cleanly' stop_snapshotter
	check 'the helper ends' stop_helper
	losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"
	stop_registry
	check 'nothing is left' nothing_left
}
