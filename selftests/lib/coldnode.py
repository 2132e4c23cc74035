# SPDX-License-Identifier: Apache-2.0
"""What tests and benchmarks without a virtual machine share: a helper on an empty cache, with cold_bench in the kernel's place."""
import json, os, shutil, socket, subprocess, sys, tempfile, threading, time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIB, BIN, BENCH = TOP + "/selftests/lib", TOP + "/bin", TOP + "/build/bench"
NAME = os.path.basename(sys.argv[0])
MIB = 1 << 20
TICK = os.sysconf("SC_CLK_TCK")


def run(*command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode:
        sys.exit(f"{NAME}: {' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{NAME}: {what}: not within {seconds} s")
        time.sleep(0.02)


def answers(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def timed(command):
    """(wall seconds, CPU seconds of it and all its children) of a shell command."""
    begin = time.monotonic()
    process = subprocess.Popen(["bash", "-c", "set -o pipefail; " + command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        sys.exit(f"{NAME}: status {status} of {command}")
    return time.monotonic() - begin, used.ru_utime + used.ru_stime


class Registry:
    """docker-registry on a port of loopback, with a store of its own below work."""

    def __init__(self, work, port):
        self.work, self.port = work, port
        os.mkdir(f"{work}/registry")
        with open(f"{work}/registry.yml", "w") as f:
            json.dump({"version": 0.1, "log": {"level": "error", "accesslog": {"disabled": True}},
                       "storage": {"filesystem": {"rootdirectory": f"{work}/registry"}}, "http": {"addr": f"127.0.0.1:{port}"}}, f)
        with open(f"{work}/registry.log", "w") as log:
            self.process = subprocess.Popen(["docker-registry", "serve", f"{work}/registry.yml"], stdout=log, stderr=log)
        wait_until("docker-registry", lambda: answers(port))

    def add(self, name, *layers):
        """Pushes an image of these layers as NAME:NAME, and what it is converted to as NAME:fast."""
        layout = f"{self.work}/layout.{name}"
        run("/usr/bin/python3", LIB + "/mkimage.py", layout, name, *layers)
        run("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:{name}",
            f"docker://127.0.0.1:{self.port}/{name}:{name}")
        shutil.rmtree(layout)
        run(BIN + "/convertor", "-r", f"127.0.0.1:{self.port}/{name}", "-i", name, "--fastoci", "fast", "--plain")

    def meta(self, name, port=None):
        """A file with NAME's assembled meta image, whose data come from the port (another one: a way to this registry)."""
        port = port or self.port
        path = f"{self.work}/meta.{name}.{port}"
        run(BIN + "/fastoci", "assemble", f"127.0.0.1:{port}/{name}:fast", "--plain", "-o", path)
        return path

    def end(self):
        self.process.kill()
        self.process.wait()


def demo_layer():
    """The demo image's largest layer: (its descriptor, its file)."""
    layout = run(LIB + "/mkdemo").strip()
    with open(layout + "/index.json") as f:
        index = json.load(f)
    with open(f"{layout}/blobs/sha256/{index['manifests'][0]['digest'][7:]}") as f:
        layer = max(json.load(f)["layers"], key=lambda layer: layer["size"])
    return layer, f"{layout}/blobs/sha256/{layer['digest'][7:]}"


class Roles:
    """The processes of a helper: the broker and its children, with theirs."""

    def __init__(self, broker):
        self.broker = broker

    def pids(self):
        found, todo = [], [self.broker]
        while todo:
            pid = todo.pop()
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children") as f:
                        todo += [int(p) for p in f.read().split()]
            except OSError:
                continue
            found.append(pid)
        return found

    def cpu_seconds(self):
        """User and system time of all, with that of children that were waited for."""
        ticks = 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/stat") as f:
                    ticks += sum(int(n) for n in f.read().rpartition(")")[2].split()[11:15])
            except OSError:
                pass
        return ticks / TICK

    def pss_bytes(self):
        total = 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as f:
                    total += sum(int(line.split()[1]) for line in f if line.startswith("Pss:")) << 10
            except OSError:
                pass
        return total


class Peak(threading.Thread):
    def __init__(self, roles):
        super().__init__(daemon=True)
        self.roles, self.most, self.over = roles, 0, threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(0.1):
            self.most = max(self.most, self.roles.pss_bytes())

    def end(self):
        self.over.set()
        self.join()
        return self.most / MIB


class Node:
    """A helper on an empty cache, with the program that stands in for the kernel and some images."""

    def __init__(self, work, metas, options=(), cache_bytes=3 << 30, config="{}"):
        self.dir = tempfile.mkdtemp(dir=work, prefix="node.")
        self.loops = []
        cache = self.dir + "/cache.img"
        with open(cache, "wb") as f:
            f.truncate(cache_bytes)
        self.cache = self.loop(cache, "--direct-io=on")
        self.log = open(self.dir + "/log", "w")
        kernel = self.dir + "/kernel"
        self.kernel = subprocess.Popen([BENCH + "/cold_bench", "kernel", kernel], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       text=True)
        self.ask_kernel("ready")
        # Formats the cache; registers once there is something to serve.
        self.control = self.dir + "/control"
        self.helper = None
        self.command = [BIN + "/fastoci-helperd", "--cache-dir", self.dir + "/db", "--cache-device", self.cache, "--control",
                        self.control, "--libexec", BIN, "--kernel-socket", kernel, "--config", self.dir + "/config",
                        "--fetcher-arg=--plain-http", *options]
        with open(self.dir + "/config", "w") as f:
            f.write(config)
        format_it = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        self.ask_kernel("registered")
        format_it.terminate()
        format_it.wait()
        self.ask_kernel("cache " + self.cache)
        self.images = [self.ask_kernel("image " + self.loop(m, "-r")) for m in metas]
        self.start_helper()

    def start_helper(self):
        self.helper = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        self.roles = Roles(self.helper.pid)
        wait_until("the helper knows its images", self.knows_images)

    def loop(self, path, *options):
        device = run("losetup", "-f", "--show", "-b", "512", *options, path).strip()
        self.loops.append(device)
        return device

    def knows_images(self):
        try:
            images = self.ask_helper("stat")["images"]
        except (OSError, ValueError):
            return False
        if self.helper.poll() is not None:
            sys.exit(f"{NAME}: the helper has ended:\n" + open(self.dir + "/log").read())
        return len(images) == len(self.images) and all(i["chunks"] for i in images)

    def ask_kernel(self, line):
        print(line, file=self.kernel.stdin, flush=True)
        answer = json.loads(self.kernel.stdout.readline())
        if "error" in answer:
            with open(self.dir + "/log") as f:
                sys.exit(f"{NAME}: {line[:60]}: {answer['error']}\n{f.read()[-3000:]}")
        return answer

    def ask_helper(self, op, **more):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(self.control)
            s.sendall(json.dumps({"op": op, **more}).encode() + b"\n")
            answer = json.loads(s.makefile().readline())
        if "error" in answer:
            sys.exit(f"{NAME}: {op}: {answer['error']}")
        return answer

    def cache_written_bytes(self):
        with open(f"/sys/block/{os.path.basename(self.cache)}/stat") as f:
            return int(f.read().split()[6]) * 512

    def space(self, image=0):
        return max(self.images[image]["spaces"], key=lambda s: s["blob_bytes"])

    def end(self):
        for process in (self.helper, self.kernel):
            process.terminate()
        self.helper.wait()
        self.kernel.wait()
        for device in self.loops:
            run("losetup", "-d", device)
        shutil.rmtree(self.dir)
