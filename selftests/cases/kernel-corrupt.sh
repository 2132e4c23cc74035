#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A corrupt meta image or cache superblock is refused by the constructor, each in its own words.
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/kernel.sh
. "$SELFTESTS/lib/kernel.sh"
load_image
ktap_of "$PYTHON" "$lib/corrupt.py" /dev/ram0 /dev/ram1
check 'nothing is left' nothing_left
finish
