#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernel: debug
# Malformed and random netlink messages, dmsetup messages and table lines, beside a reader; FUZZ_SECONDS and FUZZ_SEED.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
load_image
must create 2 fail_after_ms 200
touch "$tmp/reading"
while [ -e "$tmp/reading" ]; do read_all; done & reader=$!
# shellcheck disable=SC2086 # no seed: one of its own
ktap_of "$PYTHON" "$lib/nlfuzz.py" /dev/mapper/t "${FUZZ_SECONDS:-15}" ${FUZZ_SEED-}
rm "$tmp/reading"
wait $reader
dmsetup remove t
must create
start_fake
check 'afterwards a new device reads right' same
stop_fake
dmsetup remove t
check 'nothing is left' nothing_left
finish
