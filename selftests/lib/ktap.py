# SPDX-License-Identifier: Apache-2.0
"""ktap.py - results of a test program, one KTAP line each, for lib.sh's ktap_of."""
import sys

count = failed = 0


def check(name, good, note=""):
    """Prints the result, a failure's note before it, line by line. Whether it is good."""
    global count, failed
    count += 1
    failed += not good
    if not good and note:
        print("# " + note.replace("\n", "\n# "))
    print("ok" if good else "not ok", count, name, flush=True)
    return good


def end():
    """Prints the plan and exits: 0 if nothing failed."""
    print(f"1..{count}")
    sys.exit(failed != 0)
