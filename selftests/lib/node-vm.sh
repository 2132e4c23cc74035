#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# node-vm.sh: the lives of selftests/nodetest's node, run by a unit at each boot. In the first one the documents' commands are
# run and an image is attached; the second begins without a registry, and its helper is killed again and again; the third has
# another kernel, where there is one, and ends with the removal of everything.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
life=$(sed -n 's/.*nodetest\.life=\([0-9]*\).*/\1/p' /proc/cmdline)
CASE=node-life-$life
nodetest=/root/nodetest image=$REGISTRY/demo:latest_fastoci mnt=/mnt/demo
note "life $life begins on $(uname -r)"
unset DM_DISABLE_UDEV
export TERM=dumb PAGER=cat

# run_block FILE: commands of a document, as a user types them
run_block() { timeout 300 bash -eux "$1" < /dev/null; }
document() { # BLOCK
	local what
	what=$(head -1 "$1")
	# One that fails must not take the rest along.
	check "${what#\# }: $(sed -n 2p "$1")" run_block "$1" || systemctl start fastoci-helperd
}
same() { drop_caches; diff -r "$nodetest/files/$(basename "${1:-$mnt}")" "${1:-$mnt}"; }
# attached: an image as the documents' reader has one
attached() { mountpoint -q $mnt || fastoci -q attach "$image" --mount $mnt || note 'attach failed'; }
active() { systemctl is-active "$1"; }
show() { systemctl show -P "$2" "$1"; }
settled() { [ "$(systemctl is-system-running)" != starting ]; }
main_pid() { [ "$(show fastoci-helperd MainPID)" != 0 ]; }
no_devices() { ! dmsetup ls --target fastoci | grep fastoci; } # LVM's stays
restarts() { show fastoci-helperd NRestarts; }
show_logs() { note "$(journalctl -b --no-pager -o short-monotonic -u 'fastoci-*' -u docker-registry | tail -n 60)"; }

check 'the helper is active' active fastoci-helperd
is 'and has said so itself' "$(show fastoci-helperd Type)" notify
check 'restore has run' active fastoci-restore
wait_for 60 registry_alive
case $life in
1)
	exposure=$(systemd-analyze security fastoci-helperd | sed -n 's/.*Overall exposure level for fastoci-helperd.service: \([0-9.]*\).*/\1/p')
	note "systemd-analyze security fastoci-helperd: $exposure"
	check 'its exposure is 4.0 at most' awk "BEGIN { exit !(\"$exposure\" != \"\" && $exposure + 0 <= 4.0) }"
	# What the documents' reader has: a volume for the cache, and an image of their own.
	must vgcreate -q vg /dev/vdb
	must lvcreate -q -y -L 400M -n cache vg
	mkdir -p /mnt/app /etc/fastoci
	echo '{"cacheDevice": "/dev/vg/cache"}' > /etc/fastoci/config.json
	must systemctl restart fastoci-helperd
	check 'a volume of LVM serves as the cache' wait_for 30 helper_ready
	convert app 1.0 1.0_fastoci
	seen=0
	for block in "$nodetest"/commands/node/*; do
		case $(head -1 "$block") in *operations.md*) attached ;; esac
		document "$block"
		for dir in $mnt /mnt/app; do
			! mountpoint -q $dir || ! grep -q " $dir\\>" "$block" || { seen=$((seen + 1)); check "what it mounted at $dir is the image" same $dir; }
		done
	done
	is 'the documents have mounted as often as they say' $seen 4
	while read -r command; do
		attached
		check "$command" timeout 60 bash -euc "${command//IMAGE/demo-latest_fastoci}"
	done < "$nodetest/commands/table"
	attached
	check 'detach' fastoci -q detach demo-latest_fastoci
	check 'nothing is left of it' no_devices
	cp "$nodetest"/commands/json/* /etc/fastoci/config.json
	must systemctl restart fastoci-helperd
	check 'a file serves as the cache' wait_for 30 helper_ready
	matches 'metrics are where the document says' "$(curl -s "$(grep -o 'http://127.0.0.1:[0-9]*/metrics' docs/operations.md)")" '^fastoci_fills_total 0'
	check 'attach' fastoci -q attach "$image" --plain --mount $mnt || die 'nothing to read'
	check 'the files are the image' same
	systemctl -q mask --now docker-registry
	sync
	;;
2)
	check 'no registry answers' not registry_alive
	is 'the image is mounted again' "$(findmnt -no SOURCE $mnt)" /dev/mapper/fastoci-demo-latest_fastoci
	check 'and the same' same
	systemctl -q unmask docker-registry
	systemctl start docker-registry
	check 'systemctl reload' systemctl reload fastoci-helperd
	must fastoci -q attach "$REGISTRY/app:1.0_fastoci" --mount /mnt/app
	before=$(restarts)
	crash() { systemctl kill -s KILL --kill-who="$1" fastoci-helperd; }
	for round in 1 2 3 4 5 6 7 8; do
		wait_for 20 main_pid
		crash main
		[ $round != 1 ] || { same /mnt/app > "$WORK/differs" 2>&1 & reader=$!; }
	done
	check 'after eight kills it serves again' wait_for 60 helper_ready
	restarted() { [ "$(restarts)" -ge $((before + 8)) ]; }
	check 'each was a restart' wait_for 10 restarted
	check 'and it stays active' active fastoci-helperd
	wait $reader
	is 'what was read first, while there was no helper, has waited and is right' "$? $(cat "$WORK/differs")" '0 '
	check 'detach of that' fastoci -q detach app-1.0_fastoci
	check 'the files are still the same' same
	pid=$(show fastoci-helperd MainPID)
	while [ ! -e "$WORK/stop" ]; do same > "$WORK/differs" || exit 1; done & reader=$!
	check 'the package is installed anew while files are read' env DEBIAN_FRONTEND=noninteractive \
		apt-get -y --reinstall install ./build/deb/fastoci_*.deb
	touch "$WORK/stop"
	wait $reader
	is 'which were right all the time' "$? $(cat "$WORK/differs")" '0 '
	check 'the helper is another' test "$pid" != "$(show fastoci-helperd MainPID)"
	check 'and active' wait_for 10 active fastoci-helperd
	sync
	;;
3)
	is 'the image is mounted once more' "$(findmnt -no SOURCE $mnt)" /dev/mapper/fastoci-demo-latest_fastoci
	check 'and the same' same
	exec 7< $mnt/00
	check 'a purge while the image is in use fails' not env DEBIAN_FRONTEND=noninteractive apt-get -y purge fastoci fastoci-dkms
	said=$(cat "$WORK/check.out")
	exec 7<&-
	matches 'and says what to do' "$said" 'demo-latest_fastoci is in use; stop what uses it, or: fastoci detach --force demo-latest_fastoci'
	check 'what is there is still served' same
	for block in "$nodetest"/commands/last/*; do
		check "$(head -1 "$block" | cut -c3-): $(sed -n 2p "$block")" bash -c "yes | DEBIAN_FRONTEND=noninteractive bash -eux $block"
	done
	check 'no module is left' not test -d /sys/module/dm_fastoci
	check 'no dm device' no_devices
	check 'no loop device' no_loop_devices
	# Without --all, which has the names that nodetest.service mentions.
	is 'no unit' "$(systemctl list-unit-files --no-legend 'fastoci*'; systemctl list-units --no-legend 'fastoci*')" ''
	is 'no process' "$(pgrep -a fastoci)" ''
	is 'no package' "$(dpkg -l 'fastoci*' 2> /dev/null | grep -c '^[^u]')" 0
	find / -xdev \( -path /root -o -path /var/cache \) -prune -o -printf '/%P\n' | sort > "$WORK/after"
	sed -E 's|^/s?bin/|/usr&|; s|^/lib[0-9]*/|/usr&|' /var/lib/dpkg/info/*.list | sort -u > "$WORK/owned"
	# What the dependencies, which stay, and this test have made of their own.
	is 'no file' "$(comm -13 $nodetest/before "$WORK/after" | comm -23 - "$WORK/owned" | grep -E '^/(etc|usr|boot|opt|var/lib)/' |
		grep -vE '^/var/lib/(dpkg|systemd|docker-registry|dbus|dkms/mok)|^/etc/lvm/|/nodetest\.service$|/e2scrub_')" ''
	sync
	;;
esac
check 'the kernel log is clean' kernel_log_clean
finish # and the unit reboots
