#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""topscreen.py NAME COMMAND...: `fastoci top` on a terminal: it shows NAME, q and a signal end it, and the terminal is as
it was. Prints what is wrong; exit status 1 then."""
import os, pty, select, signal, sys, termios, time

name, command = sys.argv[1].encode(), sys.argv[2:]


def run(end):
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    before, seen = termios.tcgetattr(fd), b""
    until = time.monotonic() + 60
    ended = False
    while time.monotonic() < until:
        if select.select([fd], [], [], 0.2)[0]:
            try:
                data = os.read(fd, 65536)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            seen += data
        if not ended and name in seen:
            if termios.tcgetattr(fd)[3] & termios.ICANON:
                return "it waits for Enter"
            end(pid, fd)
            ended = True
        if ended and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            after = termios.tcgetattr(fd)
            if after[:4] != before[:4]:
                return f"the terminal is not as it was: {before[:4]} {after[:4]}"
            while select.select([fd], [], [], 0.2)[0]:
                try:
                    data = os.read(fd, 65536)
                except OSError:
                    break
                if not data:
                    break
                seen += data
            break
    status = os.waitpid(pid, 0 if ended else os.WNOHANG)[1]
    if not ended or status != 0:
        return f"status {status}, shown: {seen[-500:]}"
    if not seen.rstrip().endswith(b"\x1b[?25h\x1b[?1049l"):
        return f"it does not leave its screen: {seen[-100:]}"
    return ""


wrong = [w for w in (run(lambda pid, fd: os.write(fd, b"q")), run(lambda pid, fd: os.kill(pid, signal.SIGTERM))) if w]
print("\n".join(wrong))
sys.exit(1 if wrong else 0)
