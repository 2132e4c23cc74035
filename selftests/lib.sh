# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# lib.sh - what every case in selftests/cases begins with.
#
# A case is a bash script that runs as root in a fresh virtual machine, which
# sees the tree at its usual path (writes are lost with the machine) and has an
# empty disk /dev/vda. Its first lines may say
#	# timeout: SECONDS		(default 600, as machines are slow)
#	# vm: MORE OPTIONS OF vmrun
#	# kernel: PATTERN		(default *: of the kernel's name, as run -k takes it)
#	# once: REASON			(one kernel is enough, see run)
# It prints KTAP through the functions below and ends with `finish`; whatever
# else ends it is a failure. What `defer` was told is undone at exit, in reverse
# order. No bare sleeps: wait_for polls a condition for a bounded time.
set -uo pipefail
export LC_ALL=C.UTF-8 DM_DISABLE_UDEV=1

SELFTESTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP=$(dirname "$SELFTESTS")
# shellcheck disable=SC2034 # for the cases
PYTHON=/usr/bin/python3
BIN=${FASTOCI_BIN:-$TOP/bin}
CASE=$(basename "$0" .sh)
WORK=/run/selftest
REGISTRY=127.0.0.1:5000
IMAGES=${FASTOCI_IMAGES:-${XDG_CACHE_HOME:-$HOME/.cache}/fastoci/images}
mkdir -p "$WORK"

# The data-race detector, where it is, begins here, as booting needs none. It watches the module alone (mkkernel), so one
# access of 20, and for longer than it would by itself, as emulated CPUs are slow.
if [ -w /sys/kernel/debug/kcsan ]; then
	echo 20 > /sys/module/kcsan/parameters/skip_watch
	echo 500 > /sys/module/kcsan/parameters/udelay_task
	echo on > /sys/kernel/debug/kcsan
fi

# --- KTAP -------------------------------------------------------------------
ktap_count=0 ktap_failed=0 ktap_planned='' ktap_finished=''

plan() { # N
	ktap_planned=$1
	echo "KTAP version 1"
	echo "1..$1"
}
note() { printf '%s\n' "$*" | sed 's/^/# /'; }
ok() { ktap_count=$((ktap_count + 1)); echo "ok $ktap_count - $*"; }
not_ok() {
	ktap_count=$((ktap_count + 1)) ktap_failed=$((ktap_failed + 1))
	echo "not ok $ktap_count - $*"
}
skip() { # DESCRIPTION REASON
	ktap_count=$((ktap_count + 1))
	echo "ok $ktap_count - $1 # SKIP $2"
}
# check DESCRIPTION COMMAND...: ok if COMMAND, which runs in this shell, succeeds; its output is shown if not
check() {
	local what=$1 status
	shift
	"$@" > "$WORK/check.out" 2>&1
	status=$?
	if [ $status = 0 ]; then ok "$what"; else
		note "command: $*" "status: $status"
		note "$(tail -n 40 "$WORK/check.out")"
		not_ok "$what"
	fi
	return $status
}
not() { ! "$@"; }
# ktap_of COMMAND...: counts the KTAP lines that a test program prints
ktap_of() {
	local line last=''
	while IFS= read -r line; do
		last=$line
		case $line in
		'ok '*) line=${line#ok }; ok "${line#* }" ;;
		'not ok '*) line=${line#not ok }; not_ok "${line#* }" ;;
		*) note "$line" ;;
		esac
	done < <("$@" 2>&1; echo "exit status $?")
	[ "$last" = 'exit status 0' ] || not_ok "$1: $last"
}
# is DESCRIPTION GOT WANTED
is() {
	if [ "$2" = "$3" ]; then ok "$1"; else
		note "got: $2"
		note "wanted: $3"
		not_ok "$1"
	fi
}
# matches DESCRIPTION TEXT EXTENDED_REGEX
matches() {
	if grep -qE -- "$3" <<<"$2"; then ok "$1"; else
		note "got: $2"
		note "wanted a match of: $3"
		not_ok "$1"
	fi
}
# die: the case cannot go on
die() { note "$*"; not_ok "$CASE goes on: $*"; exit 1; }
must() { "$@" || die "failed ($?): $*"; }
# requires PROGRAM-or-FILE...: skips the whole case if one is missing
requires() {
	local thing
	for thing; do
		case $thing in
		/*) [ -e "$thing" ] && continue ;;
		*) command -v "$thing" >/dev/null && continue ;;
		esac
		echo "KTAP version 1"
		echo "1..1"
		ktap_planned=1
		skip "$CASE" "needs $thing"
		finish
		exit 0
	done
}
finish() {
	[ -n "$ktap_planned" ] || echo "1..$ktap_count"
	ktap_planned=${ktap_planned:-$ktap_count}
	ktap_finished=1
	exit 0
}

deferred=()
defer() { deferred+=("$(printf '%q ' "$@")"); }
run_deferred() {
	local i
	for ((i = ${#deferred[@]} - 1; i >= 0; i--)); do
		eval "${deferred[i]}" >/dev/null 2>&1 || true
	done
	deferred=()
}
at_exit() {
	local status=$?
	trap - EXIT
	end_watch
	[ "$ktap_failed" = 0 ] || show_logs
	run_deferred
	keep_coverage
	[ ! -r /sys/kernel/debug/kcsan ] || note "data-race detector: $(sed -n '2,4p' /sys/kernel/debug/kcsan | tr '\n' ' ')"
	if [ -z "$ktap_finished" ]; then
		not_ok "$CASE ended early (status $status)"
		exit 1
	fi
	if [ "$ktap_planned" != "$ktap_count" ]; then
		note "planned $ktap_planned, ran $ktap_count"
		exit 1
	fi
	[ "$ktap_failed" = 0 ] || exit 1
	# The success token: without it the runner counts a failure.
	echo "# selftest-token $CASE $ktap_count"
	exit 0
}
# What a module that make coverage-kmod built has counted, also after it went.
keep_coverage() {
	local counts
	for counts in /sys/kernel/debug/gcov"${MODULE%/*}"/*.gcda; do
		[ ! -e "$counts" ] || cat "$counts" > "$SELFTEST_FILES/${counts##*/}"
	done
}
trap at_exit EXIT
show_logs() {
	local log
	for log in "$WORK"/*.log; do
		[ -s "$log" ] || continue
		note "--- the end of ${log##*/}"
		note "$(tail -n 25 "$log")"
	done
}

# Shortly before the machine's time is over, what hangs is shown: after that there is no machine to ask.
stack_of() { # PID: of all its threads
	local task
	for task in "/proc/$1"/task/*; do
		note "$(cat "$task/comm"): $(cat "$task/wchan")" "$(cat "$task/stack")"
	done
}
show_hang() {
	local pid
	note '--- time is nearly over'
	show_logs
	note "$(timeout 10 dmsetup status --noflush 2>&1)" "$(timeout 10 "$BIN/fastoci" status --json 2>&1)"
	note "$(ps axo pid,ppid,stat,wchan:30,args 2>/dev/null | grep -v ' 2 I\?<\? ')"
	for pid in $(pidof fastoci-helperd fastoci); do stack_of "$pid"; done
	echo w > /proc/sysrq-trigger
	note "$(dmesg | tail -n 60)"
}
if [ -n "${SELFTEST_SECONDS:-}" ]; then
	watch=$WORK/watch.pid
	# Not a child: cases wait for all of theirs.
	(
		trap - EXIT
		(trap - EXIT; sleep "$SELFTEST_SECONDS" && show_hang) &
		echo $! > "$watch"
	)
fi
end_watch() { [ ! -f "${watch:-}" ] || pkill -P "$(cat "$watch")" 2>/dev/null; }

# How many times slower than Debian's the kernel is: limits of waits are as many times longer.
case ${SELFTEST_KERNEL:-} in
debug | kcsan) SLOWER=6 ;;
*) SLOWER=1 ;;
esac
# wait_for SECONDS COMMAND...: polls; fails when the time is over
wait_for() {
	local end=$((SECONDS + $1 * SLOWER))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# --- machine ----------------------------------------------------------------
# use_disk: an ext4 file system on the empty disk, at $DISK
DISK=$WORK/disk
EMPTY_DISK=/dev/vda
[ -b $EMPTY_DISK ] || EMPTY_DISK=/dev/ubda # User-Mode Linux
use_disk() {
	mountpoint -q "$DISK" && return
	mkdir -p "$DISK"
	must mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=1,nodiscard $EMPTY_DISK
	must mount $EMPTY_DISK "$DISK"
	defer umount "$DISK"
}
MODULE=$TOP/build/kmod/${SELFTEST_KERNEL:-$(uname -r)}/dm-fastoci.ko
# What insmod does not load for our module: newer kernels have the checksum in another one, or built in.
load_crc() { modprobe -q libcrc32c || modprobe -q crc32 || :; }
load_module() {
	modprobe -a dm-mod loop || die modprobe
	load_crc
	[ -d /sys/module/dm_fastoci ] && return
	must insmod "$MODULE"
}
unload_module() { rmmod dm_fastoci; }
drop_caches() { sync; echo 3 > /proc/sys/vm/drop_caches; }

# loop_for FILE [losetup options]: prints the new loop device
loop_for() { losetup -f --show "${@:2}" "$1"; }

# --- registry ---------------------------------------------------------------
registry_alive() { curl -s -o /dev/null "http://$REGISTRY/v2/"; }
start_registry() {
	local conf=$WORK/registry.yml store=${1:-$DISK/registry}
	use_disk
	mkdir -p "$store"
	cat > "$conf" <<-YAML
	version: 0.1
	log: {level: warn, accesslog: {disabled: true}}
	storage:
	  filesystem: {rootdirectory: $store}
	  delete: {enabled: true}
	http: {addr: $REGISTRY}
	YAML
	docker-registry serve "$conf" > "$WORK/registry.log" 2>&1 &
	registry_pid=$!
	defer stop_registry
	wait_for 120 registry_alive || die "the registry does not answer"
}
stop_registry() {
	[ -n "${registry_pid:-}" ] || return 0
	kill "$registry_pid" 2>/dev/null
	wait "$registry_pid" 2>/dev/null
	registry_pid=
}
# push_image LAYOUT_DIR[:TAG] REPOSITORY:TAG
# With the digests as they are: without that, skopeo compresses layers that are not.
# Without what another skopeo on the machine below may be writing just now.
push_image() {
	rm -f /var/lib/containers/cache/blob-info-cache-v1.boltdb
	skopeo --insecure-policy copy -q --preserve-digests --dest-tls-verify=false "oci:$1" \
		"docker://$REGISTRY/$2" >> "$WORK/skopeo.log" 2>&1 || die "skopeo copy of $1 to $2"
}
# convert REPOSITORY INPUT_TAG OUTPUT_TAG [more options of convertor]
convert() {
	"$BIN/convertor" -r "$REGISTRY/$1" -i "$2" --fastoci "$3" --plain "${@:4}" \
		>> "$WORK/convertor.log" 2>&1 || die "convertor of $1:$2"
}

# --- helper -----------------------------------------------------------------
fastoci() { "$BIN/fastoci" "$@"; }
helper_ready() { fastoci status --json; }
CACHE_DIR=$DISK/cache
helper_options=(--cache-size-mb 512)
start_helper() { # [more options]
	use_disk
	mkdir -p "$CACHE_DIR" /run/fastoci
	"$BIN/fastoci-helperd" --cache-dir "$CACHE_DIR" "${helper_options[@]}" "$@" \
		>> "$WORK/helper.log" 2>&1 &
	helper_pid=$!
	[ -n "${helper_deferred:-}" ] || defer stop_helper
	helper_deferred=1
	wait_for 30 helper_ready || die "the helper is not ready"
}
stop_helper() {
	[ -n "${helper_pid:-}" ] || return 0
	kill -TERM "$helper_pid" 2>/dev/null
	wait "$helper_pid" 2>/dev/null
	local status=$?
	helper_pid=
	return $status
}
kill_helper() { # kill -9, and only the broker: its roles must notice
	kill -KILL "$helper_pid"
	wait "$helper_pid" 2>/dev/null
	helper_pid=
}

# --- counters ---------------------------------------------------------------
# helper_stat PATH: what the helper's "stat" has there, such as counters.fails, caches[0].durable or cache_device
helper_stat() { fastoci status --json 2>/dev/null | jq -r ".helper.$1"; }
counter() { helper_stat "counters.$1"; }
# dm_status NAME: the target's own part of `dmsetup status`
dm_status() { dmsetup status --noflush "$1" | cut -d' ' -f4-; }

# --- what must hold at the end ----------------------------------------------
kernel_log_clean() {
	! dmesg | grep -E "BUG:|WARNING:|Oops|KASAN:|INFO: (possible|task|trying)|${kernel_traces:-Call Trace}"
}
no_dm_devices() { [ "$(dmsetup ls 2>/dev/null)" = "No devices found" ] || [ -z "$(dmsetup ls 2>/dev/null)" ]; }
no_loop_devices() { [ -z "$(losetup -a)" ]; }
# nothing_left: after everything was detached and the helper stopped
nothing_left() {
	local left=0
	wait_for 30 no_dm_devices || { echo "dm devices: $(dmsetup ls)"; left=1; }
	wait_for 30 no_loop_devices || { echo "loop devices: $(losetup -a)"; left=1; }
	if [ -d /sys/module/dm_fastoci ]; then
		wait_for 30 unload_module || { echo "rmmod: $(rmmod dm_fastoci 2>&1)"; left=1; }
	fi
	kernel_log_clean || left=1
	no_leaks || left=1
	return $left
}
# no_leaks: on a kernel that runs kmemleak, which forgives what is younger than five seconds and what one scan misses
no_leaks() {
	local file=/sys/kernel/debug/kmemleak
	# Without kmemleak, or with kmemleak off, it takes no command.
	echo scan=off 2>/dev/null > $file || return 0
	sleep 5
	echo scan > $file && echo scan > $file
	# The kernel's own sysfs_slab_add() leaks a name when one of its allocations is made to fail.
	awk -v RS='unreferenced object' 'NR > 1 && !/sysfs_slab_add/ { print "unreferenced object" $0; bad = 1 } END { exit bad }' $file
}
