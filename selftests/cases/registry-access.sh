#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The helper reads an image with what `fastoci attach` was given: at once, after a restart of the helper, after a reboot, after
# another attach of it, and no other image. Other images are read with what the node knows (config.json, a credential helper), and a change of
# that counts at once. A mirror that hosts.toml names is asked first; if it is away, no read fails.
# vm: -m 2G
# once: credentials and mirrors, which are user space
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry skopeo jq "$BIN/fastoci" "$BIN/convertor" "$BIN/fastoci-helperd"

front=127.0.0.1:5001 dir=$WORK/front mnt=$WORK/mnt other=$WORK/other
size=$((1280 * 1024)) middle=160 # in blocks of 4096: far from both ends of a file
read_part() { # read_part MOUNT FILE: the block in its middle, directly, as it should be
	dd if="$1/$2" bs=4096 skip=$middle count=1 iflag=direct 2>/dev/null > "$WORK/part" &&
		cmp "$WORK/part" <(dd if="$DISK/files/$2" bs=4096 skip=$middle count=1 2>/dev/null)
}
state() { printf '{"kind": "basic", "user": "robot", "password": "%s"}' "$1" > "$dir/new" && mv "$dir/new" "$dir/state.json"; }
front_answers() { curl -s -o /dev/null "http://$front/v2/"; }
waits() { fastoci status --json | jq -r '.helper.images[].waits_for[].cause' | grep -q credentials; }
asked() { grep -c "GET /v2/$1/blobs/.* 20" "$dir/log"; }
login() { # login PASSWORD [FILE]: as `docker login` leaves it
	local file=${2:-$HOME/.docker/config.json}
	printf '{"auths": {"%s": {"auth": "%s"}}}' "$front" "$(printf 'robot:%s' "$1" | base64 -w0)" > "$file.new" && mv "$file.new" "$file"
}
knows_host() { fastoci status --json | jq -r '.helper.hosts[].host' | grep -qxF "http://$1"; }
start() {
	start_helper --config "$WORK/config.json" --decoders 2 --retry-scale 20 --fetcher-arg=--hosts-dir \
		--fetcher-arg="$WORK/certs.d"
}

load_module
start_registry
export HOME=$WORK/home
mkdir -p "$DISK/layout" "$dir" "$HOME/.docker" "$WORK/bin"
must "$PYTHON" "$SELFTESTS/lib/mkpatches.py" "$DISK/files" "$DISK/layer.tar.gz" 10 $size
must "$PYTHON" "$SELFTESTS/lib/mkimage.py" "$DISK/layout" latest "$DISK/layer.tar.gz"
for name in given known; do
	push_image "$DISK/layout:latest" $name:latest
	convert $name latest latest_fastoci
done
# Nothing is fetched that was not asked for.
jq -n '{wholeLayerKB: 0, readaheadMB: 0}' > "$WORK/config.json"
state pass-one
"$PYTHON" "$SELFTESTS/lib/registry_front.py" 5001 "$REGISTRY" "$dir" > "$WORK/front.log" 2>&1 &
defer kill $!
wait_for 30 front_answers || die 'no front'

start
check 'without credentials nothing is attached' not fastoci attach $front/given:latest_fastoci
check 'attach with -u' fastoci attach -u robot:pass-one $front/given:latest_fastoci --mount "$mnt" || die 'nothing to read'
check 'the helper reads with them' read_part "$mnt" 00
kept=/var/lib/fastoci/images/given-latest_fastoci/access.json
is 'they are kept, for root alone' "$(stat -c %a $kept)" 600
is 'and nowhere else' "$(grep -rlF pass-one /var/lib/fastoci)" $kept
stop_helper
start
check 'so does the next helper' read_part "$mnt" 01
# A reboot ends helper, mount and device; the state directory stays.
stop_helper
umount "$mnt"
must dmsetup remove fastoci-given-latest_fastoci
start
check 'it is restored after a reboot' fastoci restore
check 'and read with what attach was given then' read_part "$mnt" 07
# An attach of what is attached hands over what it was given, and ends what waits for it.
state pass-file
read_part "$mnt" 08 > "$WORK/compared" 2>&1 &
reader=$!
check 'another password holds a read' wait_for 40 waits
login pass-file "$WORK/login.json"
check 'attached again with a file of credentials' fastoci attach --credentials "$WORK/login.json" $front/given:latest_fastoci
check 'that ends' wait "$reader"
is 'the name of the file is kept, and no password' "$(jq -r '.credentials_file, .password' $kept)" "$WORK/login.json
null"
login pass-one "$WORK/login.json"
state pass-one
check 'a change of the file counts' read_part "$mnt" 09

# What was given for one image is not used for another one of the same registry, although it has the same id.
check 'without credentials the other is not attached' not fastoci attach $front/known:latest_fastoci
login pass-one
check 'with a login it is' fastoci attach $front/known:latest_fastoci --mount "$other"
fastoci detach given-latest_fastoci > "$WORK/detach.log" 2>&1 || die "$(cat "$WORK/detach.log")"
check 'and the helper reads with that' read_part "$other" 02
check 'the login is not kept for the image' not test -e /var/lib/fastoci/images/known-latest_fastoci/access.json

state pass-two
read_part "$other" 03 > "$WORK/compared" 2>&1 &
reader=$!
check 'credentials that are refused hold a read' wait_for 40 waits
check 'it is still waiting' kill -0 $reader
login pass-two
check 'a new login ends that' wait "$reader"

printf '#!/bin/sh\ncat > /dev/null\nid -u > %s/who\necho '\''{"Username": "robot", "Secret": "pass-three"}'\''\n' "$WORK/bin" > "$WORK/bin/docker-credential-test"
chmod 755 "$WORK/bin/docker-credential-test"
chmod 777 "$WORK/bin"
state pass-three
stop_helper
printf '{"credHelpers": {"%s": "test"}}' "$front" > "$HOME/.docker/config.json"
PATH=$WORK/bin:$PATH start
check 'a credential helper is asked' read_part "$other" 04
is 'as nobody' "$(cat "$WORK/bin/who")" 65534

# The registry itself, without the front, as a mirror of it.
mkdir -p "$WORK/certs.d/127.0.0.1_5001_"
printf '[host."http://%s"]\n' "$REGISTRY" > "$WORK/certs.d/127.0.0.1_5001_/hosts.toml"
must fastoci reload
check 'after a reload a mirror is known' wait_for 20 knows_host "$REGISTRY"
before=$(asked known)
check 'it serves' read_part "$other" 05
is 'instead of the registry' "$(asked known)" "$before"
printf '[host."http://127.0.0.1:9"]\n' > "$WORK/certs.d/127.0.0.1_5001_/hosts.toml"
must fastoci reload
check 'after another one, another' wait_for 20 knows_host 127.0.0.1:9
check 'a mirror that is away fails no read' read_part "$other" 06
check 'the registry serves instead' test "$(asked known)" -gt "$before"
is 'no password is in a log, an event, or a title' \
	"$(cat "$WORK/helper.log" <(fastoci events) <(fastoci status --json) /proc/[0-9]*/cmdline 2>/dev/null | grep -a 'pass-\(one\|two\|three\|file\)' | grep -av bash)" ''
fastoci detach known-latest_fastoci > "$WORK/detach.log" 2>&1 || die "$(cat "$WORK/detach.log")"
check 'the helper ends' stop_helper
losetup -d "$(losetup -nO NAME -j "$CACHE_DIR/cache.img")"
stop_registry
check 'nothing is left' nothing_left
finish
