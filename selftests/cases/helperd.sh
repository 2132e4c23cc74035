#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fastoci-helperd with its fetcher and decoders serves a device from a file: cold, killed, restarted, with a small cache.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires curl
lib=$SELFTESTS/lib
helper='' dir=/mnt/cache
ask() { # ask OP: one request on the control socket
	"$PYTHON" -c 'import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])
s.sendall(b"{\"op\":\"" + sys.argv[2].encode() + b"\"}\n"); print(s.makefile().readline())' $dir/control "$1" 2>/dev/null
}
counter() { ask stat | grep -o "\"$1\":[0-9]*" | head -1 | cut -d: -f2; }
start_helper() { # start_helper [OPTION...]
	"$TOP/bin/fastoci-helperd" --cache-dir $dir/c --cache-size-mb 8 --control $dir/control --decoders 3 "$@" >> "$WORK/helper.log" 2>&1 &
	helper=$!
	wait_for 20 ready
}
ready() { ask ping | grep -q '"ok":true'; }
kill_helper() { kill -"$1" "$helper"; wait "$helper" 2>/dev/null; }
same() { blockdev --flushbufs /dev/mapper/t; timeout 60 cmp /dev/mapper/t $dir/data; }
create() { dmsetup create t --readonly --table "0 $sectors fastoci /dev/ram0 $cache"; }

modprobe brd rd_nr=2 rd_size=65536 && modprobe loop && modprobe dm-mod && modprobe ext4 && load_crc || die modprobe
mkfs.ext4 -q /dev/ram1 && mkdir -p $dir && mount /dev/ram1 $dir || die 'no place for a cache'
truncate -s 4M $dir/unused
sectors=$("$PYTHON" "$lib/mkhelpermeta.py" $dir/meta $dir/unused $dir/data $dir/blob)
dd if=$dir/meta of=/dev/ram0 bs=4096 conv=fsync,notrunc 2>/dev/null
check 'module loads' insmod "$MODULE"
check 'the helper starts' start_helper
[ $ktap_failed = 0 ] || die 'no helper'
cache=$(ask cache | grep -o '/dev/loop[0-9]*')
check 'and tells its cache device' [ -b "$cache" ]
check 'a second helper waits for the first' not timeout 2 "$TOP/bin/fastoci-helperd" --cache-dir $dir/c --control $dir/c2 2>/dev/null
check 'creates a device' create
check 'a cold read is right' same
check 'nothing failed' [ "$(counter fails)" = 0 ]
idle() { ask stat | grep -q '"jobs":0'; }
check 'its jobs end' wait_for 20 idle
fills=$(counter fills)
check 'chunks were filled' [ "$fills" -gt 10 ]
durable() { ask stat | grep -q "\"durable\":$fills"; }
check 'rows become durable' wait_for 20 durable
mv $dir/blob $dir/away
kill_helper 9
check 'without a helper hits go on' same
check 'after a SIGKILL it starts again' start_helper
check 'and reads are right' same
check 'SIGTERM ends it in time' timeout 30 bash -c "kill $helper; while kill -0 $helper 2>/dev/null; do sleep 0.1; done"
wait "$helper"
check 'cleanly' [ $? = 0 ]
dmsetup remove t
config=$dir/config.json
echo '{"exporterConfig": {"enable": true}}' > $config
check 'it starts on the cache that is there' start_helper --config $config
check 'a new table of the same cache' create
check 'reads are right though the source is gone' same
check 'from verified slots' [ "$(counter restored)" -gt 10 ]
check 'with nothing decoded' [ "$(counter bytes_decoded)" = 0 ]
metric() { curl -s "http://127.0.0.1:${2:-9863/metrics}" | sed -n "s/^$1 //p"; }
cli() { "$TOP/bin/fastoci" --control $dir/control "$@" > "$WORK/said" 2>&1; }
said() { grep -q -- "$1" "$WORK/said" || { cat "$WORK/said"; return 1; }; }
is 'metrics say what the control socket says' "$(metric fastoci_restored_chunks_total)" "$(counter restored)"
printf '{\n"minFreeGB": "1"}' > $config
check 'a reload of a mistake fails' not cli reload
check 'with its place' said "$config:2:1: \"minFreeGB\" must be a whole number"
check 'and changes nothing' [ "$(metric fastoci_jobs)" = 0 ]
echo '{"exporterConfig": {"enable": true, "port": 9864, "uriPrefix": "/m"}, "wholeBlob": "off"}' > $config
check 'a reload' cli reload
check 'names what takes a restart' said 'restarted: wholeBlob$'
is 'metrics have moved' "$(metric fastoci_jobs 9864/m),$(metric fastoci_jobs)" 0,
echo '{}' > $config
kill -HUP "$helper"
no_metrics() { ! curl -s "http://127.0.0.1:9864/m"; }
check 'SIGHUP reloads, too: no metrics' wait_for 30 no_metrics
dmsetup remove t
check 'drain' cli drain
wait "$helper"
is 'ends it' $? 0
losetup -d "$cache"
rm -rf $dir/c
mkdir $WORK/libexec && ln -s "$TOP"/bin/fastoci-{fetcher,decoder}d $WORK/libexec
check 'a new cache' start_helper --retry-scale 2 --libexec $WORK/libexec
cache=$(ask cache | grep -o '/dev/loop[0-9]*')
create
check 'without the source a read fails after two rounds' not dd if=/dev/mapper/t of=/dev/null bs=4096 2>/dev/null
mv $dir/away $dir/blob
# Another version's roles are in their places, as in the middle of an upgrade: this helper does not speak with those.
ln -sf /bin/false $WORK/libexec/fastoci-fetcherd && ln -sf /bin/false $WORK/libexec/fastoci-decoderd
for child in $(cat /proc/"$helper"/task/*/children 2>/dev/null); do kill -9 "$child"; done
check 'with it, and with its roles killed and replaced by their like, reads are right' same
fresh() { # a helper with an empty cache, and a device on it
	dmsetup remove t; kill_helper 15; losetup -d "$cache"; rm -rf $dir/c
	start_helper
	cache=$(ask cache | grep -o '/dev/loop[0-9]*')
	create
}
# Upgrades while cold parts are read, as the package does them.
upgrade() { cli drain && wait "$helper" && start_helper; }
read_part() { dd if=/dev/mapper/t of=$dir/read bs=4096 iflag=direct conv=notrunc skip=$(($1 * part)) seek=$(($1 * part)) count=$part; }
fresh
part=$(((sectors / 8 + 5) / 6)) failed=''
for i in 0 1 2 3 4 5; do
	read_part $i 2> "$WORK/read.log" & reader=$!
	upgrade || failed+="upgrade $i "
	wait $reader || failed+="read $i "
done
is 'six upgrades under reads: each of them and each read succeeds' "$failed" ''
check 'and what was read is right' cmp $dir/read $dir/data
printf 'XXXX' | dd of=$dir/blob bs=1 seek=700000 conv=notrunc 2>/dev/null
fresh
check 'bytes that do not match their digest are never served' not dd if=/dev/mapper/t of=/dev/null bs=4096 2>/dev/null
check 'but refused and counted' [ "$(counter mismatches)" -ge 3 ]
check 'removes the device' dmsetup remove t
kill_helper 15
check 'rmmod leaves nothing behind' wait_for 20 rmmod dm-fastoci
check 'no kernel report' kernel_log_clean
losetup -d "$cache"; umount $dir
finish
