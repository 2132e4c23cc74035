#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mokmanager.py PASSWORD KEYS LOG QEMU...: starts that virtual machine, whose shim asks about KEYS new keys on the serial line,
and enrolls them as somebody at the console does; ends when the machine resets. Needs python3-pexpect."""
import sys
import pexpect

DOWN, ENTER = "\x1b[B", "\r"
password, keys, log, *qemu = sys.argv[1:]
# Firmware is slow, in emulation and on a busy machine.
machine = pexpect.spawn(qemu[0], qemu[1:] + ["-serial", "stdio"], timeout=600, encoding="latin-1", echo=False)
machine.logfile_read = open(log, "w", encoding="latin-1")


def choose(seen, downs):
    """In the menu where SEEN is shown last, the entry that many below the first."""
    machine.expect_exact(seen)
    # What follows is the rest of the menu: a key that comes before it is lost.
    machine.expect(pexpect.TIMEOUT, timeout=3)
    for _ in range(downs):
        machine.send(DOWN)
        machine.expect(pexpect.TIMEOUT, timeout=1)
    machine.send(ENTER)


choose("Press any key to perform MOK management", 0)
choose("Enroll MOK", 1)                # after "Continue boot"
choose("Continue", int(keys))          # after "View key 0" and so on
choose("Yes", 1)                       # after "No"
machine.expect_exact("Password")
machine.send(password + ENTER)
choose("Reboot", 0)
machine.expect(pexpect.EOF)
