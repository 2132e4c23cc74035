#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""wake.py SOCKET: presses the power button, as it were, of a virtual machine that has gone to sleep, each time it does; SOCKET is
where QEMU listens for its machine protocol. Ends when QEMU does."""
import json, socket, sys, time

machine = socket.socket(socket.AF_UNIX)
while True:
    try:
        machine.connect(sys.argv[1])
        break
    except OSError:
        time.sleep(0.2)


def order(name):
    machine.sendall(json.dumps({"execute": name}).encode() + b"\n")


order("qmp_capabilities")
for line in machine.makefile():
    if json.loads(line).get("event") == "SUSPEND":
        time.sleep(2)  # asleep for as long as one can see
        order("system_wakeup")
