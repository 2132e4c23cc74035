# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# efi.sh - a virtual machine with Secure Boot: OVMF with Microsoft's keys, and Debian's signed shim, GRUB and kernel on a disk.
# vmrun --efi boots one, and selftests/secureboot one that stops in shim's MokManager. Needs: ovmf, mtools, dosfstools, apt-get.
efi_cache=${XDG_CACHE_HOME:-$HOME/.cache}/fastoci/efi
ovmf=/usr/share/OVMF

# efi_programs: shim, MokManager and GRUB, taken out of their packages at the first call
efi_programs() {
	[ ! -e "$efi_cache/programs/.done" ] || return 0
	rm -rf "$efi_cache/programs"
	mkdir -p "$efi_cache/debs" "$efi_cache/programs"
	# apt's own user must be able to write there.
	(cd "$efi_cache/debs" && apt-get -o APT::Sandbox::User=root download -q \
		shim-signed shim-helpers-amd64-signed grub-efi-amd64-signed >&2) || return
	local deb
	for deb in "$efi_cache"/debs/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$efi_cache/programs" --transform 's|.*/||' --wildcards '*.efi.signed' || return
	done
	rm -r "$efi_cache/debs"
	touch "$efi_cache/programs/.done"
}

# efi_disk FILE KERNEL INITRD PARAMETERS [SHIM]: a disk that boots this kernel with these parameters
efi_disk() {
	local disk=$1 kernel=$2 initrd=$3 parameters=$4 programs=$efi_cache/programs config bytes
	local shim=${5:-$programs/shimx64.efi.signed}
	efi_programs || return
	config=$(mktemp)
	printf '%s\n' 'terminal_output console' "linux /vmlinuz $parameters" 'initrd /initrd' boot > "$config"
	bytes=$(cat "$kernel" "$initrd" | wc -c)
	rm -f "$disk"
	truncate -s $((bytes + (48 << 20))) "$disk"
	mkfs.vfat -F 32 "$disk" > /dev/null &&
		mmd -i "$disk" ::/EFI ::/EFI/BOOT ::/EFI/debian &&
		mcopy -i "$disk" "$shim" ::/EFI/BOOT/BOOTX64.EFI &&
		mcopy -i "$disk" "$programs/mmx64.efi.signed" ::/EFI/BOOT/mmx64.efi &&
		mcopy -i "$disk" "$programs/grubx64.efi.signed" ::/EFI/BOOT/grubx64.efi &&
		mcopy -i "$disk" "$config" ::/EFI/debian/grub.cfg &&
		mcopy -i "$disk" "$kernel" ::/vmlinuz &&
		mcopy -i "$disk" "$initrd" ::/initrd
	local status=$?
	rm -f "$config"
	return $status
}

# efi_variables FILE [EMPTY]: what firmware remembers, new: with Microsoft's keys, or with none (Secure Boot's setup mode)
efi_variables() { if [ -n "${2:-}" ]; then cp "$ovmf/OVMF_VARS_4M.fd" "$1"; else cp "$ovmf/OVMF_VARS_4M.ms.fd" "$1"; fi; }

# efi_machine VARIABLES DISK: sets $efi_qemu, QEMU's arguments. Only code in system management mode can change the variables.
efi_machine() {
	efi_qemu=(-machine 'q35,smm=on' -global 'driver=cfi.pflash01,property=secure,value=on'
		-drive "if=pflash,unit=0,format=raw,readonly=on,file=$ovmf/OVMF_CODE_4M.secboot.fd"
		-drive "if=pflash,unit=1,format=raw,file=$1"
		-drive "if=none,id=efi,format=raw,readonly=on,file=$2" -device 'virtio-blk-pci,drive=efi,bootindex=1,addr=1e.0')
}
