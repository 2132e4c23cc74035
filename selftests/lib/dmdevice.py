# SPDX-License-Identifier: Apache-2.0
"""dmdevice.py - device-mapper's ioctls, without dmsetup's process for each."""
import fcntl, os, struct, subprocess

READONLY, SUSPEND, NOFLUSH, IMA = 1 << 0, 1 << 1, 1 << 11, 1 << 19
CREATE, REMOVE, RESUME, INFO, STATUS, LOAD, CLEAR, MESSAGE = (
    (3 << 30 | 312 << 16 | 0xFD << 8) + nr for nr in (3, 4, 6, 7, 12, 9, 10, 14))


def dmsetup(*words):
    return subprocess.run(("dmsetup", *words), check=True, capture_output=True, text=True).stdout


def swap_table(name, table):
    for words in ("suspend", name), ("reload", name, "--table", table), ("resume", name):
        dmsetup(*words)


def write(device, data, at=0):
    fd = os.open(device, os.O_WRONLY)
    os.pwrite(fd, data, at)
    os.fsync(fd)
    os.close(fd)


class Log:
    """The kernel log from now on."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def read(self):
        text = ""
        while True:
            try:
                text += os.read(self.fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return text
            except BrokenPipeError:
                continue  # records were overwritten


class Device:
    """A read-only device, without a table at first. Its node is made by nobody: `dmsetup mknodes`."""
    control = None  # one for all

    def __init__(self, name, log=None, create=True):
        self.name, self.log = name, log or Log()
        if Device.control is None:
            Device.control = os.open("/dev/mapper/control", os.O_RDWR | os.O_CLOEXEC)
        if create:
            self.ioctl(CREATE)

    def ioctl(self, request, targets=0, data=b"", flags=0):
        head = struct.pack("<3IIIIiIIIQ128s129s7s", 4, 0, 0, 312 + len(data), 312, targets, 0, READONLY | flags, 0, 0,
                           0, self.name.encode(), b"", b"")
        buffer = bytearray(head + data)
        fcntl.ioctl(self.control, request, buffer)
        self.event_nr, = struct.unpack_from("<I", buffer, 32)
        return bytes(buffer[312:])

    def events(self):
        """How many events it has raised, as `dmsetup wait` counts them."""
        self.ioctl(INFO)
        return self.event_nr

    def refusal(self, sectors, meta, cache):
        """Runs the constructor: None if it accepts, and then the table waits for resume(); or what the log says."""
        self.log.read()
        line = f"{meta} {cache}".encode() + b"\0"
        line += bytes(-len(line) % 8)
        try:
            self.ioctl(LOAD, 1, struct.pack("<QQiI16s", 0, sectors, 0, 40 + len(line), b"fastoci") + line)
        except OSError:
            return self.log.read()
        return None

    def resume(self):
        self.ioctl(RESUME)

    def clear(self):
        """Runs the destructor of a table that was never resumed."""
        self.ioctl(CLEAR)

    def suspend(self, noflush=False):
        self.ioctl(RESUME, flags=SUSPEND | (NOFLUSH if noflush else 0))

    def message(self, text):
        self.ioctl(MESSAGE, data=struct.pack("<Q", 0) + text.encode() + b"\0")

    def status(self):
        """The words behind the target's name."""
        return self.ioctl(STATUS, data=bytes(600))[40:].split(b"\0")[0].decode().split()

    def hits(self):
        return int(self.status()[3])

    def parked(self):
        return int(self.status()[5])

    def errors(self):
        return int(self.status()[6])

    def remove(self):
        self.ioctl(REMOVE)
