#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# secureboot-vm.sh LIFE FOLDER: the lives of the machine that selftests/secureboot boots; FOLDER has what that has made. In the
# first one the firmware knows no key of ours, in the second it knows DKMS's and our own.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
CASE=secureboot-life-$1
helper_options=(--cache-size-mb 64) # and not 512
folder=$2 password=secret-of-this-test guide=$TOP/docs/secure-boot.md
unsigned=$folder/unsigned/rootfs/opt signed=$folder/signed/rootfs/opt
export PATH=$TOP/bin:$PATH
mount -t securityfs s /sys/kernel/security
mount -t efivarfs e /sys/firmware/efi/efivars
cp -a "$folder"/node/* /
# document PLACE: the guide's commands; what they said is in $WORK/said
document() {
	local block
	: > "$WORK/said"
	for block in "$folder/commands/$1"/*; do
		check "$(head -1 "$block" | cut -c3-)" answered "$block"
	done
}
# The passwords that mokutil asks for, from somebody in the folder where module.der is.
answered() { (cd "$folder/builder" && printf '%s\n' $password $password | bash -eux "$1") > "$WORK/answer" 2>&1; local s=$?; cat "$WORK/answer"; cat "$WORK/answer" >> "$WORK/said"; return $s; }
# says WHAT TEXT WORDS: the words are there, and the guide tells them
says() {
	matches "$1" "$2" "$3"
	check '... as the guide says' grep -qF -- "$3" "$guide"
}
loaded() { [ -d /sys/module/dm_fastoci ]; }
refused() { # WHAT COMMAND...: the module is not loaded thereafter; sets $said, $logged
	local what=$1
	shift
	dmesg -C
	said=$("$@" 2>&1)
	check "$what" not loaded
	logged=$(dmesg)
	note "$said" "$logged"
}
load_with() { sh "$TOP/packaging/kmod-image/fastoci-load-module" --modules "$1" --source /none; }
works() { # WHAT: a device of the module reads right, which it has from the registry
	if [ -z "${registry_pid:-}" ]; then
		start_registry
		must "$PYTHON" "$SELFTESTS/lib/mkpatches.py" "$DISK/files" "$DISK/layer.tar.gz" 3 $((1 << 20))
		must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" latest "$DISK/layer.tar.gz"
		push_image "$DISK/layout:latest" signed:latest
		convert signed latest fastoci
	fi
	start_helper
	check "$1: attach" fastoci -q attach "$REGISTRY/signed:fastoci" --plain --mount "$WORK/mnt"
	check "$1: its files are right" diff -r "$DISK/files" "$WORK/mnt"
	is "$1: the kernel has asked the helper" "$([ "$(counter bytes_fetched)" -gt 0 ] && echo yes)" yes
	says "$1: fastoci doctor says" "$(fastoci doctor 2>&1)" 'the module dm-fastoci is loaded'
	check "$1: detach" fastoci -q detach "$REGISTRY/signed:fastoci"
	stop_helper
	losetup -D
	check "$1: the module goes" wait_for 30 unload_module
}

must modprobe -a dm-mod loop
load_crc
document before
matches 'the guide: Secure Boot is on' "$(cat "$WORK/said")" '^SecureBoot enabled'
matches 'the guide: the kernel is locked down' "$(cat "$WORK/said")" '\[integrity\]'
matches 'because of Secure Boot' "$(dmesg)" 'Kernel is locked down from EFI Secure Boot'
refused 'insmod of an unsigned module is refused' insmod "$unsigned/lib/modules/$(uname -r)/extra/dm-fastoci.ko"
says 'insmod says' "$said" 'Key was rejected by service'
says 'the kernel says' "$logged" 'Loading of unsigned module is rejected'
case $1 in
1)
	refused 'fastoci-load-module does not load it either' load_with "$unsigned"
	says 'it says' "$said" 'is not signed, and this kernel takes signed ones only'
	refused 'a module of a key that nobody enrolled is refused' modprobe dm-fastoci
	says 'modprobe says' "$said" 'Key was rejected by service'
	says 'the kernel says' "$logged" 'Loading of module with unavailable key is rejected'
	refused '... by insmod' insmod "$folder/builder/dm-fastoci.ko"
	refused '... by fastoci-load-module' load_with "$signed"
	said=$(fastoci doctor 2>&1)
	note "$said"
	says 'fastoci doctor says' "$said" 'the module dm-fastoci is not loaded'
	document enroll
	matches 'the keys wait for the next boot' "$(mokutil --list-new)" 'DKMS module signing key'
	;;
2)
	document after
	matches 'both keys are known' "$(cat "$WORK/said")" 'DKMS module signing key'
	matches '... ours, too' "$(cat "$WORK/said")" 'example.com module signing'
	matches 'the module is that of DKMS' "$(cat "$WORK/said")" '^DKMS module signing key'
	check 'it is loaded' loaded
	works 'DKMS'
	check 'fastoci-load-module loads the signed one of the image' load_with "$signed"
	works 'kmod-image --sign'
	check 'insmod of one signed by hand' insmod "$folder/builder/dm-fastoci.ko"
	check 'it goes' unload_module
	;;
esac
finish
