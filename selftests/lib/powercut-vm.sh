#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# powercut-vm.sh ROUND: one life of the machine that selftests/powercut cuts. Its disk stays; what an earlier life cached is
# looked at first. Prints "KEPT n" (chunks that came back), "RIGHT" or "WRONG", then "BUSY n" and "QUIET n" with the number of
# durable chunks, until it is killed.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
lib=$SELFTESTS/lib
trap - EXIT
verified() { [ "$(helper_stat 'caches[0].restorable')" = 0 ]; }
durable() { helper_stat 'caches[0].durable'; }
settled() { [ "$(durable)" = "$(helper_stat 'caches[0].present')" ]; }
load_module
modprobe -r brd; must modprobe brd rd_nr=1 rd_size=65536
mkdir -p "$DISK"
blkid /dev/vda > /dev/null || must mkfs.ext4 -q /dev/vda
must mount /dev/vda "$DISK"
truncate -s 4M "$WORK/unused"
sectors=$("$PYTHON" "$lib/mkhelpermeta.py" "$WORK/meta" "$WORK/unused" "$WORK/data" "$WORK/blob")
dd if="$WORK/meta" of=/dev/ram0 bs=4096 conv=fsync,notrunc status=none
helper_options=(--cache-size-mb 2 --lanes 4)
start_helper
must dmsetup create t --readonly --table "0 $sectors fastoci /dev/ram0 $(helper_stat cache_device)"
must wait_for 60 verified
echo "KEPT $(counter restored), $(counter rotten) rotten"
if cmp /dev/mapper/t "$WORK/data"; then echo RIGHT; else echo WRONG; fi
while :; do
	for _ in 1 2 3; do
		"$PYTHON" - "$WORK/data" <<-'PY' || echo WRONG
		import mmap, os, random, sys
		want = open(sys.argv[1], "rb").read()
		fd, buf = os.open("/dev/mapper/t", os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 65536)
		for _ in range(60):
		    at = random.randrange(len(want) // 4096) * 4096
		    n = os.preadv(fd, [buf], at)
		    if n == 0 or buf[:n] != want[at:at + n]:
		        sys.exit(1)
		PY
		echo "BUSY $(durable)"
	done
	must wait_for 30 settled
	echo "QUIET $(durable)"
	[ $(($1 % 2)) = 0 ] || exec sleep 1000
done
