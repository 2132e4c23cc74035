#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The fastoci command on local meta images: attach, mount, status, detach, refusals, exit codes.
# The helper is the minimal one, so that this case needs neither registry nor broker.
# once: the command's options and refusals
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires e2fsck mke2fs mkfs.erofs fsck.erofs debugfs dmsetup "$BIN/fastoci"

tmp=/dev/shm/cli
mkdir -p $tmp
cli() { "$BIN/fastoci" --state-dir $tmp/state --control $tmp/control.sock "$@"; }
exits() { # exits CODE COMMAND...: it ends with that exit code
	local want=$1 got
	shift
	"$@" > $tmp/out 2>&1
	got=$?
	[ $got = "$want" ] || { echo "exit code $got, wanted $want"; cat $tmp/out; return 1; }
}
said() { grep -qE -- "$1" $tmp/out || { cat $tmp/out; return 1; }; }
json() { "$PYTHON" -c "import json,sys; print(json.load(sys.stdin)$1)"; }
helper=''
start_fake() {
	"$PYTHON" "$SELFTESTS/lib/fakehelper.py" /dev/ram1 > $tmp/helper.out 2> $tmp/helper.log &
	helper=$!
	defer stop_fake
	wait_for 20 grep -q ready $tmp/helper.out || die 'the minimal helper does not start'
}
stop_fake() { [ -z "$helper" ] || { kill -9 "$helper"; wait "$helper" 2>/dev/null; }; helper=''; }
make_images() {
	local kind
	truncate -s 4M $tmp/cache
	for kind in good erofs journal mntopts damaged panic; do
		FASTOCI_EXT4=$kind "$PYTHON" "$SELFTESTS/lib/mkext4meta.py" $tmp/$kind.img $tmp/cache $tmp/blob || return 1
	done
	dd if=$tmp/cache of=/dev/ram1 bs=64K conv=fsync,notrunc 2>/dev/null
}

# Without device-mapper, where the kernel may not load it by itself.
if ! grep -q device-mapper /proc/misc; then
	autoload=$(cat /proc/sys/kernel/modprobe)
	echo > /proc/sys/kernel/modprobe
	check 'a kernel without device-mapper is refused' exits 7 cli list
	check 'the error says what is missing, and what to do' said 'no device-mapper; load it with .modprobe dm-mod'
	check 'and nothing of libdevmapper' bash -c "! grep -i -e libdevmapper -e 'kernel driver' $tmp/out"
	echo "$autoload" > /proc/sys/kernel/modprobe
fi

modprobe -a dm-mod loop ext4 erofs && modprobe brd rd_nr=2 rd_size=8192 &&
	load_crc
must insmod "$MODULE"
make_images > $tmp/make.log 2>&1 || die "cannot make images: $(cat $tmp/make.log)"
attach() { cli attach --meta-image $tmp/good.img --name t --cache-device /dev/ram1 "$@"; }

check 'list is empty at first' exits 0 cli list
check 'and says what to do' said 'fastoci attach'
check 'status of nothing is "not found"' exits 3 cli status t
check 'wrong usage has an exit code of its own' exits 2 cli attach
check 'so has an option before a command of containerd' exits 2 cli --json rpull r.example/a
check 'which says where it belongs' said 'its options stand behind it: fastoci rpull'
check '--help' exits 0 cli --help
is 'has its commands in groups, the common ones first' "$(sed -n 's/^\([A-Z][a-z]*:\)$/\1/p' $tmp/out | tr '\n' ' ')" \
	'Options: Images: Look: Cache: Registry: Node: Examples: '
is 'each command is in one' "$(sed -n '/^Options:/,/^$/d; /^[A-Z].*:$/,/^$/s/^  \([a-z]*\)  .*/\1/p' $tmp/out | wc -l)" \
	"$(sed -n '/^Options:/,/^$/d; s/^  \([a-z]*\)  .*/\1/p' $tmp/out | sort -u | wc -l)"
check 'a file that is no meta image is refused' exits 7 cli attach --meta-image $tmp/blob --name t --cache-device /dev/ram1
check 'a missing one is not found' exits 3 cli attach --meta-image $tmp/none --name t --cache-device /dev/ram1
check 'without helper and --cache-device: unavailable' exits 4 cli attach --meta-image $tmp/good.img --name t
check 'and says what to do' said 'start it'
check 'a bad name is refused' exits 7 cli attach --meta-image $tmp/good.img --name ../t --cache-device /dev/ram1
check 'a cache that is none is refused' exits 1 cli attach --meta-image $tmp/good.img --name t --cache-device /dev/ram0
check 'with the reason of the kernel' said 'kernel: .*fastoci'
check 'no loop device is left' no_loop_devices
check 'no device is left' no_dm_devices
is 'no state is left' "$(ls -A $tmp/state 2>/dev/null)" ''

check 'attach' exits 0 attach --hold
check 'says the device' said 'attached as /dev/mapper/fastoci-t'
check 'the node is there without udev' test -b /dev/mapper/fastoci-t
is 'the uuid is ours' "$(dmsetup info -c --noheadings -o uuid fastoci-t)" FASTOCI-t
is 'the device is read-only' "$(blockdev --getro /dev/mapper/fastoci-t)" 1
loop=$(losetup -nO NAME -j $tmp/good.img)
is 'one loop device, autoclear, read-only, 512-byte blocks' \
	"$(losetup -nO AUTOCLEAR,RO,LOG-SEC "$loop" | tr -s ' ')" ' 1 1 512'
check 'attaching again succeeds' exits 0 attach --hold
check 'and says so' said 'already attached'
check 'list shows it' exits 0 cli list
check 'with its name' said '^t .*attached'
is 'status --json tells the policy' "$(cli status t --json | json '["policy"]')" hold
is 'and the chunks' "$(cli status t --json | json '["chunks_total"]')" 40

check 'mount' exits 0 cli mount t $tmp/mnt
is 'read-only, errors=continue' "$(awk -v d=$tmp/mnt '$2 == d { print $4 }' /proc/mounts | grep -c '^ro,.*')" 1
is 'metadata is readable without a helper' "$(cat $tmp/mnt/etc/motd)" hello
check 'mounting again succeeds' exits 0 cli mount t $tmp/mnt
is 'the check of the file system is remembered' \
	"$(json '["fsck_sha256"]' < $tmp/state/t/state.json)" "$(sha256sum < $tmp/good.img | cut -d' ' -f1)"
start_fake
check 'file content through misses' cmp $tmp/mnt/data $tmp/blob
is 'status counts them' "$(cli status t --json | json '["chunks_cached"]')" 40
check 'umount by directory' exits 0 cli umount $tmp/mnt
check 'umount again: not found' exits 3 cli umount t
check 'mount for the next checks' exits 0 cli mount t $tmp/mnt
exec 9< $tmp/mnt/etc/motd
check 'detach of an image in use is busy' exits 6 cli detach t --timeout-ms 500
check 'and names who uses it' said 'in use.*(fuser|process)'
is 'its policy is as before' "$(cli status t --json | json '["policy"]')" hold
exec 9<&-
check 'detach' exits 0 cli detach t
check 'no loop device is left after it' wait_for 30 no_loop_devices
check 'no device is left after it' no_dm_devices
check 'no mount is left' bash -c "! mountpoint -q $tmp/mnt"
is 'no state is left after it' "$(ls -A $tmp/state)" ''
stop_fake

# Somebody else detaches it and attaches it anew, as another device, while detach waits for the lock.
other_device() {
	umount $tmp/mnt && dmsetup remove fastoci-t || return 1
	dmsetup create plug --table '0 8 zero' && defer dmsetup remove plug || return 1 # takes its number
	loop=$(losetup -f --show -r -b 512 $tmp/good.img) || return 1
	dmsetup create fastoci-t --uuid FASTOCI-t --readonly \
		--table "0 $(($(od -An -tu8 -j64 -N8 $tmp/good.img))) fastoci $loop /dev/ram1 1 hold" &&
		losetup -d "$loop" && mount -t ext4 -o ro,noload /dev/mapper/fastoci-t $tmp/mnt
}
waits_for_lock() { find /proc/$detach/fd -lname $tmp/state/t | grep -q .; }
check 'attach and mount for a detach that waits' exits 0 attach --mount $tmp/mnt
exec 8< $tmp/state/t
must flock 8
before=$(dmsetup info -c --noheadings -o minor fastoci-t)
"$BIN/fastoci" --state-dir $tmp/state --control $tmp/control.sock detach t > $tmp/waits 2>&1 8<&- &
detach=$!
check 'detach waits for the lock' wait_for 20 waits_for_lock
check 'the image is another device now' other_device
check 'really another' test "$before" != "$(dmsetup info -c --noheadings -o minor fastoci-t)"
exec 8<&-
wait $detach
is 'detach takes away what is there now' "$? $(cat $tmp/waits)" "0 $(sed -n 1p $tmp/waits)"
check 'its mount is gone' bash -c "! mountpoint -q $tmp/mnt"
dmsetup remove plug
check 'nothing of it is left' wait_for 30 no_dm_devices

# A cold cache and no helper: a reader hangs in a held miss.
dd if=/dev/zero of=/dev/ram1 bs=64K 2>/dev/null
dd if=$tmp/cache of=/dev/ram1 bs=64K conv=fsync,notrunc 2>/dev/null
check 'attach and mount in one' exits 0 attach --mount $tmp/mnt
cat $tmp/mnt/data > /dev/null 2>&1 &
reader=$!
has_pending() { [ "$(cli status t --json | json '["pending"]')" -gt 0 ]; }
check 'a reader waits' wait_for 30 has_pending
begin=$(now_ms)
check 'detach frees the reader and ends' exits 0 cli detach t
took=$(($(now_ms) - begin))
check "within 5 s (took $took ms)" test $took -lt 5500
wait $reader
is 'the reader got an error' $? 1
check 'no loop device is left by it' wait_for 30 no_loop_devices

check 'attach with --fail-after-ms' exits 0 attach --fail-after-ms 200 --mount $tmp/mnt
is 'status tells it' "$(cli status t --json | json '["policy"]')" fail_after_ms:200
check 'reads fail then' bash -c "! cat $tmp/mnt/data > /dev/null 2>&1"
check 'detach by mount point with --keep' exits 0 cli detach $tmp/mnt --keep
check 'list shows what is kept' exits 0 cli list
check 'as kept' said '^t .*kept'
check 'detach removes what was kept' exits 0 cli detach t
is 'nothing is kept then' "$(ls -A $tmp/state)" ''

for bad in journal mntopts damaged panic; do
	check "attach of an image with bad file system ($bad)" exits 0 cli attach --meta-image $tmp/$bad.img --name bad --cache-device /dev/ram1
	check "is refused at mount ($bad)" exits 7 cli mount bad $tmp/mnt
	check "with a reason ($bad)" said 'refused to mount'
	check "and is detached ($bad)" exits 0 cli detach bad
done

# Even without the check: the image's wish for a panic is overruled.
check 'attach an image that asks for a panic and has a corrupt inode' exits 0 cli attach --meta-image $tmp/panic.img --name bad --cache-device /dev/ram1
check 'mount it unchecked' exits 0 cli mount bad $tmp/mnt --skip-fsck
check 'its corrupt file cannot be read' not cat $tmp/mnt/etc/motd
check 'the kernel saw the error' grep -q 'EXT4-fs error' <(dmesg)
check 'and lives' test -d /proc/1
check 'detach it too' exits 0 cli detach bad

check 'attach an erofs image' exits 0 cli attach --meta-image $tmp/erofs.img --name e --cache-device /dev/ram1
check 'mount it after its check' exits 0 cli mount e $tmp/mnt
is 'it is readable' "$(cat $tmp/mnt/etc/motd)" hello
check 'detach it' exits 0 cli detach e

# A hostile e2fsck: everything that the sandbox promises to refuse. Exit 0: refused.
cat > $tmp/hostile.c <<'C'
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#define MUST_FAIL(call) if ((call) >= 0) { puts("allowed: " #call); bad = 4; }
int main(void) {
	int bad = 0;
	char byte;
	MUST_FAIL(open("/tmp/file", O_WRONLY | O_CREAT, 0600))
	MUST_FAIL(open("/run/image", O_RDWR))
	MUST_FAIL(open("/etc/shadow", O_RDONLY))
	MUST_FAIL(open("/dev/ram1", O_RDONLY))
	MUST_FAIL(open("/proc/1/mem", O_RDONLY))
	MUST_FAIL(socket(AF_INET, SOCK_STREAM, 0))
	MUST_FAIL(socket(AF_UNIX, SOCK_STREAM, 0))
	MUST_FAIL(socket(AF_NETLINK, SOCK_RAW, 16))
	MUST_FAIL(fork())
	MUST_FAIL(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0))
	MUST_FAIL(syscall(SYS_clone3, 0, 0))
	MUST_FAIL(kill(-1, 0))
	MUST_FAIL(mount("none", "/tmp", "tmpfs", 0, ""))
	MUST_FAIL(umount("/run"))
	MUST_FAIL(mknod("/tmp/node", S_IFBLK | 0600, 0x100))
	MUST_FAIL(setuid(0))
	MUST_FAIL(ptrace(PTRACE_TRACEME, 0, 0, 0))
	MUST_FAIL(unlink("/run/image"))
	MUST_FAIL(fcntl(9, F_GETFD))
	if (getuid() != 65534 || getpid() != 1) { puts("not nobody, or not process 1"); bad = 4; }
	if (read(open("/run/image", O_RDONLY), &byte, 1) != 1) { puts("cannot read the image"); bad = 4; }
	return bad;
}
C
must cc -O0 -w -static -o $tmp/hostile $tmp/hostile.c
check 'attach for a hostile e2fsck' exits 0 attach --hold
must mount --bind /bin/false "$(command -v e2fsck)"
check 'an e2fsck that finds damage prevents the mount' exits 7 cli mount t $tmp/mnt
umount "$(command -v e2fsck)"
must mount --bind $tmp/hostile "$(command -v e2fsck)"
exec 9< /etc/passwd
check 'the sandbox refuses it everything' exits 0 cli mount t $tmp/mnt
exec 9<&-
umount "$(command -v e2fsck)"
check 'detach after it' exits 0 cli detach t

# As README and operations.md have it.
by_hand() {
	local loop sectors
	loop=$(losetup -f --show -r -b 512 $tmp/good.img) && sectors=$(od -An -tu8 -j64 -N8 $tmp/good.img) &&
	dmsetup create fastoci-hand --uuid FASTOCI-hand --readonly \
		--table "0 $((sectors)) fastoci $loop /dev/ram1 1 hold" && losetup -d "$loop"
}
check 'attach by hand' by_hand
check 'is known to status' exits 0 cli status hand
check 'mount of it' exits 0 cli mount hand $tmp/mnt
check 'detach of it' exits 0 cli detach hand

# Policy, and what comes back after a reboot: the kernel forgets its devices, the state does not.
check 'attach and mount for a reboot' exits 0 attach --mount $tmp/mnt
check 'ps shows it' exits 0 cli ps
check 'with helper and policy' said '^t .* none +hold$'
check 'fail changes the policy' exits 0 cli fail t --after-ms 300
is 'as status tells' "$(cli status t --json | json '["policy"]')" fail_after_ms:300
check 'hold changes it back' exits 0 cli hold t
cat $tmp/mnt/data > /dev/null 2>&1 &
reader=$!
check 'a reader waits again' wait_for 30 has_pending
check 'doctor ends with 1' exits 1 cli doctor
check 'names the missing helper' said 'problem +the helper does not answer'
check 'and the waiting reads, with what to do' said 'fastoci fail t'
check 'fail at once' exits 0 cli fail t
check 'frees the reader' timeout 30 tail --pid=$reader -f /dev/null
umount $tmp/mnt && must dmsetup remove fastoci-t
check 'doctor sees that it is gone' exits 1 cli doctor
check 'and says: restore' said 'fastoci restore'
check 'restore' exits 0 cli restore
check 'one image' said '^1 attached, 0 failed'
check 'mounted as before' mountpoint -q $tmp/mnt
is 'with its policy' "$(cli status t --json | json '["policy"]')" fail_after_ms:0
check 'restore again changes nothing' exits 0 cli restore
check 'and is content' said '^1 attached, 0 failed'
umount $tmp/mnt && must dmsetup remove fastoci-t
check 'its loop device goes' wait_for 30 no_loop_devices
mv $tmp/good.img $tmp/good.kept && cp $tmp/good.kept $tmp/good.img
printf X | dd of=$tmp/good.img bs=1 seek=5000 conv=notrunc 2> /dev/null
check 'a meta image that changed is not restored' exits 1 cli restore
check 'with the reason' said 'sha256 differs'
mv $tmp/good.kept $tmp/good.img
check 'put right, it is' exits 0 cli restore
check 'detach ends it' exits 0 cli detach t
check 'nothing to restore then' exits 0 cli restore
check 'says so' said '^0 attached, 0 failed'

# A killed attach leaks nothing: the loop device is cleared with its last user.
for seconds in 0.1 0.3 0.5 0.8; do
	timeout -s KILL $seconds "$BIN/fastoci" --state-dir $tmp/state attach --meta-image $tmp/good.img --name t \
		--cache-device /dev/ram1 > /dev/null 2>&1
	check "attach after one that was killed after $seconds s" exits 0 attach --hold
	check "and detach ($seconds)" exits 0 cli detach t
done
check 'killed attaches leave no loop device' wait_for 30 no_loop_devices
check 'nothing is left' nothing_left
finish
