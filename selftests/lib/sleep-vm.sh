#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# sleep-vm.sh: the lives of selftests/sleep's node, run by a unit at each boot. In the first one it is suspended to RAM, is kept
# awake by a read that waits for data, and hibernates; it ends with a reboot while a read waits. The second ends by kexec -e while
# a read waits, the third by systemctl kexec. Some data of its image is cached, and all the time somebody reads it.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
life=$(sed -n 's/.*node\.life=\([0-9]*\).*/\1/p' /proc/cmdline)
CASE=node-life-$life
DISK=/var/lib/sleep given=$TOP image=$REGISTRY/app:1.0_fastoci mnt=/mnt/app device=fastoci-app-1.0_fastoci
unset DM_DISABLE_UDEV
export TERM=dumb PAGER=cat
use_disk() { mkdir -p $DISK; }
show_logs() { note "$(journalctl -b --no-pager -o short-monotonic -u 'fastoci-*' -u 'systemd-*sleep*' -u 'systemd-suspend*' -u 'systemd-hibernate*' | tail -n 60)" "$(dmesg | tail -n 40)"; }
now() { note "now: $*"; }

# The machine is not to stay up for nothing.
die() { note "$*"; not_ok "$CASE goes on: $*"; systemd-run -q --on-active=5 systemctl poweroff -f -f; exit 1; }

# The files 00 and 01 are cached, the others are cold until a test reads them: every third, as reading one brings what is near.
cold=3
next_cold() { printf -v file '%02d' $cold; cold=$((cold + 3)); }
same_cached() { echo 1 > /proc/sys/vm/drop_caches; cmp "$given/files/00" $mnt/00 && cmp "$given/files/01" $mnt/01; }
same_cold() { next_cold; cmp "$given/files/$file" "$mnt/$file"; }
keep_reading() {
	rm -f "$WORK/stop" "$WORK/rounds"
	(trap - EXIT; while [ ! -e "$WORK/stop" ]; do same_cached || exit 1; echo >> "$WORK/rounds"; done) > "$WORK/differs" 2>&1 & running=$!
	wait_for 60 test -s "$WORK/rounds"
}
# goes_on WHAT: cached data is right, also in the reader's hands; cold data comes; the helper is the same and no read failed
goes_on() {
	local rounds
	rounds=$(wc -l < "$WORK/rounds")
	more_rounds() { [ "$(wc -l < "$WORK/rounds")" -gt "$rounds" ]; }
	check "$1: the reader of cached data goes on, and it is right" wait_for 60 more_rounds
	check "$1: the helper answers" wait_for 60 helper_ready
	check "$1: data that was not cached comes, and is right" same_cold
	is "$1: the helper did not end" "$(systemctl show -P NRestarts fastoci-helperd)" "${restarts:-0}"
}
misses() { dmsetup status --noflush $device | cut -d' ' -f8; }
waits() { [ "$(dmsetup status --noflush $device | cut -d' ' -f9)" -gt 0 ]; }
# parks COMMAND...: runs it on files that may be cold, until it waits for data; reading ahead may have brought what a test did not
# ask for
parks() {
	local try
	for try in 1 2 3 4 5 6; do
		next_cold
		"$@"
		wait_for 60 waits_or_ends
		! waits || return 0
	done
	return 1
}
waits_or_ends() { waits || ! "$still"; }
# park: somebody reads what no registry has; sets $parked, whose output is compared with $file
park() {
	still=runs
	check "$1: a read waits" parks begin_reading
}
runs() { kill -0 $parked 2> /dev/null; }
begin_reading() { (trap - EXIT; exec cmp "$given/files/$file" "$mnt/$file") > "$WORK/parked" 2>&1 & parked=$!; }
# park_unit: the same, by a unit of its own, which systemd wants to end at a reboot, and cannot
park_unit() {
	still=unit_runs
	check 'a read waits, of a unit' parks begin_unit
}
unit_runs() { systemctl -q is-active "$unit"; }
begin_unit() { unit=parked$file; systemd-run -q --unit="$unit" cat "$mnt/$file"; }
ended_right() { wait $parked; is "$1: the read that waited has ended, with the right bytes" "$? $(cat "$WORK/parked")" '0 '; }
successes() { cat /sys/power/suspend_stats/success; }
# sleeps WHAT COMMAND...: the machine has slept when this returns
sleeps() {
	local before begin
	before=$(successes)
	slept() { [ "$(successes)" -gt "$before" ]; }
	begin=$(now_ms)
	check "$1: ${*:2}" "${@:2}" || return
	check "$1: the machine has slept and wakes" wait_for 240 slept
	note "$1: asleep and awake again after $(($(now_ms) - begin)) ms by the clock on the wall"
}
# stays_awake WHAT COMMAND...: it fails; what the kernel says
stays_awake() {
	local begin said status
	begin=$(now_ms)
	dmesg -C
	said=$("${@:2}" 2>&1)
	status=$?
	note "$1: ${*:2}: status $status after $(($(now_ms) - begin)) ms: $said" "$(dmesg | grep -E 'Freezing|freeze|PM:' | head -n 12)"
	check "$1: the machine stays awake" test $status != 0
	matches "$1: and the kernel says why" "$(dmesg)" 'Freezing user space processes failed after [0-9.]+ seconds'
}
to_ram() { echo mem > /sys/power/state; }
to_disk() { echo disk > /sys/power/state; }

note "life $life begins on $(uname -r)"
note "sleep states: $(cat /sys/power/state), $(cat /sys/power/mem_sleep), hibernation: $(cat /sys/power/disk); pm_freeze_timeout: $(cat /sys/power/pm_freeze_timeout)"
check 'the helper is active' systemctl -q is-active fastoci-helperd
case $life in
1)
	systemctl -q mask --now docker-registry
	# Debian's kexec-tools would make a kexec of each reboot.
	echo LOAD_KEXEC=false > /etc/default/kexec
	mkdir -p $DISK /etc/fastoci
	cp -r "$given/registry" $DISK/
	echo '{"gzipCacheConfig": {"enable": true, "cacheSizeGB": 1}}' > /etc/fastoci/config.json
	must systemctl restart fastoci-helperd
	check 'the helper is ready' wait_for 60 helper_ready
	start_registry
	check 'attach' fastoci -q attach "$image" --plain --mount $mnt || die 'nothing to read'
	check 'two files are read, and so cached' same_cached
	must swapon -L swap
	keep_reading

	sleeps 'suspend to RAM' systemctl suspend
	goes_on 'after it'

	note 'a helper that is stopped'
	kill -STOP "$(systemctl show -P MainPID fastoci-helperd)"
	sleeps 'a stopped helper does not hinder sleep' to_ram
	kill -CONT "$(systemctl show -P MainPID fastoci-helperd)"
	wait_for 60 helper_ready
	restarts=$(systemctl show -P NRestarts fastoci-helperd)
	note "the watchdog, which ends a helper that is stopped for 30 s, has ended $restarts"
	goes_on 'after that'

	note 'a read that waits: the registry does not answer'
	stop_registry
	park 'no registry'
	stays_awake 'suspend to RAM while a read waits' to_ram
	check 'cached data is read meanwhile' same_cached
	stays_awake 'hibernation while a read waits' to_disk
	systemctl suspend
	failed_unit() { [ "$(systemctl is-failed systemd-suspend)" = failed ]; }
	check 'systemctl suspend: its unit fails' wait_for 120 failed_unit
	note "$(journalctl -b -u systemd-suspend --no-pager -o cat | tail -n 6)"
	systemctl reset-failed systemd-suspend
	start_registry $DISK/registry
	ended_right 'the registry is back'

	note 'what the document says to do'
	stop_registry
	park 'no registry again'
	begin=$(now_ms)
	check 'fastoci fail' fastoci -q fail "$image"
	wait $parked
	is 'the read has failed' "$?" 2
	note "fastoci fail took $(($(now_ms) - begin)) ms"
	sleeps 'then it sleeps' systemctl suspend
	check 'fastoci hold' fastoci -q hold "$image"
	start_registry $DISK/registry
	goes_on 'after that'

	note 'a helper that is stopped while a read waits for it'
	before=$restarts
	kill -STOP "$(systemctl show -P MainPID fastoci-helperd)"
	begin=$(now_ms)
	park 'a stopped helper'
	stays_awake 'suspend to RAM while a read waits for a stopped helper' to_ram
	ended_right 'systemd has started another helper'
	note "$(($(now_ms) - begin)) ms after the helper was stopped"
	restarts=$(systemctl show -P NRestarts fastoci-helperd)
	is 'the watchdog has ended it' "$restarts" $((before + 1))
	wait_for 60 helper_ready

	note 'data that comes while the machine is to sleep'
	slept=0 awake=0 missed=$(misses)
	for round in 1 2 3 4; do
		next_cold
		begin_reading
		if to_ram 2> /dev/null; then slept=$((slept + 1)); else awake=$((awake + 1)); fi
		ended_right "round $round"
	done
	note "of 4 suspends, each just after a read began, $slept succeeded and $awake were given up; there were $(($(misses) - missed)) misses"
	goes_on 'after these'

	note 'hibernation'
	echo 0 > /sys/power/image_size
	# QEMU's firmware does not turn the machine off for S4.
	mkdir -p /etc/systemd/sleep.conf.d
	printf '%s\n' '[Sleep]' HibernateMode=shutdown > /etc/systemd/sleep.conf.d/test.conf
	boot_id=$(cat /proc/sys/kernel/random/boot_id)
	sync
	now hibernates
	dmesg -C
	begin=$(now_ms)
	check 'systemctl hibernate' systemctl hibernate
	resumed() { dmesg | grep -q 'hibernation exit'; }
	check 'the machine is back' wait_for 600 resumed
	now 'is back'
	note "hibernation and resume took $(($(now_ms) - begin)) ms by the clock on the wall" "$(dmesg | grep -E 'PM:' | head -n 20)"
	is 'it is the same boot' "$(cat /proc/sys/kernel/random/boot_id)" "$boot_id"
	goes_on 'after it'
	touch "$WORK/stop"
	wait $running
	is 'the reader of cached data saw nothing else, all the time' "$? $(cat "$WORK/differs")" '0 '
	stop_registry
	park_unit
	sync
	check 'systemctl reboot' systemctl reboot --no-block
	now reboots
	;;
2 | 3)
	check 'the image is mounted again' mountpoint -q $mnt
	check 'what was cached is there, and right' same_cached
	restored=$(counter restored)
	check 'it comes from slots of before' test "$restored" -gt 10
	start_registry $DISK/registry
	cold=$((63 + 9 * (life - 2)))
	check 'the rest comes from the registry, and is right' same_cold
	stop_registry
	kexec=(kexec --kexec-file-syscall -l /boot/vmlinuz-"$(uname -r)" --initrd=/boot/initrd.img-"$(uname -r)" --command-line="$(sed "s/node.life=$life/node.life=$((life + 1))/" /proc/cmdline)")
	check 'a kernel for kexec' "${kexec[@]}"
	if [ "$life" = 2 ]; then
		keep_reading
		park 'before kexec -e'
		sync
		now 'kexec -e'
		kexec -e
		die 'kexec came back'
	fi
	park_unit
	now "systemctl kexec at $(date +%s)"
	systemctl kexec --no-block
	;;
4)
	note "systemctl kexec, while a read waits for data: the next kernel's node is up at $(date +%s)"
	check 'the image is mounted again' mountpoint -q $mnt
	check 'what was cached is there, and right' same_cached
	check 'fastoci detach' fastoci -q detach "$image"
	now 'is off'
	systemctl poweroff --no-block
	;;
esac
finish
