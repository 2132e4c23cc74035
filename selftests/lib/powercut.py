#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""powercut.py ROUND DATA TABLE: what powercut-vm.sh does once the helper was started: creates the device (TABLE lacks the
cache), compares it with DATA, and reads it here and there. One process that imports little, as that costs seconds where
machines are emulated."""
import json, mmap, os, socket, sys, time

DEVICE = "/dev/mapper/t"


def ask(op):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("/run/fastoci/control.sock")
        s.sendall(json.dumps({"op": op}).encode() + b"\n")
        return json.loads(s.makefile().readline())


def cache():
    return ask("stat")["caches"][0]


def wait_for(seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit("the time is over")
        time.sleep(0.05)


def helper_ready():
    try:
        return ask("stat")
    except OSError:
        return None


def say(*words):
    print(*words, flush=True)


def read_some(want):
    fd, buf = os.open(DEVICE, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 65536)
    for _ in range(20):
        at = int.from_bytes(os.urandom(4), "little") % (len(want) // 4096) * 4096
        n = os.preadv(fd, [buf], at)
        if n == 0 or buf[:n] != want[at:at + n]:
            say("WRONG")
    os.close(fd)


def main():
    number, data, table = sys.argv[1:4]
    with open(data, "rb") as f:
        want = f.read()
    wait_for(30, helper_ready)
    table += " " + ask("cache")["device"]
    if os.spawnlp(os.P_WAIT, "dmsetup", "dmsetup", "create", "t", "--readonly", "--table", table):
        sys.exit("no device")
    wait_for(60, lambda: ask("stat")["caches"] and cache()["restorable"] == 0)
    with open(DEVICE, "rb") as f:
        say("RIGHT" if f.read() == want else "WRONG")
    counters = ask("stat")["counters"]  # now, as the last of them may have been on its way
    say(f"KEPT {counters['restored']}, {counters['rotten']} rotten")
    if counters["rotten"]:
        with open("/run/helper.log") as f:
            sys.stderr.write(f.read())
    while True:
        for _ in range(3):
            read_some(want)
            say("BUSY", cache()["durable"])
        wait_for(30, lambda: cache()["durable"] == cache()["present"])
        say("QUIET", cache()["durable"])
        if int(number) % 2:
            time.sleep(1000)


if __name__ == "__main__":
    main()
