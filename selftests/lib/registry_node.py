#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""registry_node.py STATE NAME: a node for selftests/registries without a virtual machine. The helper is the real one; the kernel
is cold_bench's stand-in (lib/coldnode.py). The node has one image, whose assembled meta image is STATE/NAME/meta.img; beside it lies what an
attach has kept. REGISTRY_NODE_CONFIG (JSON) and REGISTRY_NODE_OPTIONS are more of the helper's configuration and options.
Needs root, for loop devices. One command a line on standard input, one line each as the answer:
  boot      all that ran is killed; a new kernel and a new helper on an empty cache. Only STATE and the node's own files stay
  restart   the helper is killed and started again
  reopen    as `fastoci attach` does that has kept something else
  read      a chunk of a span that was not read yet: "right data" (the helper has compared it with its digest), or what failed
  hold      the same, until the helper says for what the read waits: "held: CAUSE"
  wait      for the read of the last hold
  leaks WORD...   "none", or where one of these words is: the helper's log and answers, arguments of processes, STATE without
            access.json
  open      how many descriptors the helper's processes have
"""
import json, os, subprocess, sys, tempfile, time

from coldnode import BIN, Node

STATE, NAME = sys.argv[1], sys.argv[2]
SECONDS = 30
# Nothing is fetched that was not asked for, and a host is tried again soon.
CONFIG = json.dumps({"wholeLayerKB": 0, "readaheadMB": 0, "download": {"enable": False},
                     **json.loads(os.environ.get("REGISTRY_NODE_CONFIG", "{}"))})
OPTIONS = ["--state-dir", STATE, "--retry-scale", "20", "--decoders", "1", *os.environ.get("REGISTRY_NODE_OPTIONS", "").split()]


class RegistryNode:
    def __init__(self, work):
        self.work, self.node, self.spans = work, None, 0

    def boot(self):
        self.kill()
        self.node = Node(self.work, [f"{STATE}/{NAME}/meta.img"], OPTIONS, config=CONFIG)
        self.space, self.spans = self.node.space(), 0
        return "booted"

    def kill(self):
        if self.node is None:
            return
        for process in (self.node.helper, self.node.kernel):
            process.kill()
        self.node.end()
        self.node = None

    def restart(self):
        self.node.helper.kill()
        self.node.helper.wait()
        self.node.start_helper()
        return "restarted"

    def reopen(self):
        self.node.ask_helper("reopen")
        return "reopened"

    def stat(self):
        return self.node.ask_helper("stat")

    def ask(self):
        """The first chunk of another span, so that it is not there yet."""
        starts = self.space["span_chunks"]
        if self.spans >= len(starts):
            sys.exit("registry_node: the layer has too few spans")
        self.chunk = starts[self.spans] + 1
        self.spans += 1
        self.before = self.node.ask_kernel(f"present {self.space['space']}")["present"]
        self.node.ask_kernel(f"ask {self.space['space']} {self.chunk}")

    def causes(self):
        return [w["host"] + ": " + w["cause"] for i in self.stat()["images"] for w in i["waits_for"]]

    def wait(self):
        end = time.monotonic() + SECONDS
        causes = []
        while time.monotonic() < end:
            if self.node.ask_kernel(f"present {self.space['space']}")["present"] > self.before:
                return "right data"
            causes = self.causes() or causes
            if self.stat()["counters"]["fails"] > 0:
                return "an error"
            time.sleep(0.02)
        return f"no data in {SECONDS} s: " + "; ".join(causes)

    def read(self):
        self.ask()
        return self.wait()

    def hold(self):
        self.ask()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if self.node.ask_kernel(f"present {self.space['space']}")["present"] > self.before:
                return "right data"
            if self.stat()["counters"]["fails"] > 0:
                return "an error"
            if causes := self.causes():
                return "held: " + "; ".join(causes)
            time.sleep(0.02)
        return f"neither data nor a cause in {SECONDS} s"

    def leaks(self, *words):
        words = [w.encode() for w in words]
        events = subprocess.run([BIN + "/fastoci", "--control", self.node.control, "events", "--json"],
                                stdout=subprocess.PIPE, check=True).stdout
        texts = {"the helper's answers": json.dumps(self.stat()).encode() + events}
        with open(self.node.dir + "/log", "rb") as f:
            texts["the helper's log"] = f.read()
        for pid in self.node.roles.pids():
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    texts[f"the arguments of {pid}"] = f.read()
            except OSError:
                pass
        for folder, _, files in os.walk(STATE):
            for name in files:
                if name != "access.json":
                    with open(os.path.join(folder, name), "rb") as f:
                        texts[name] = f.read()
        return ", ".join(where for where, text in texts.items() if any(w in text for w in words)) or "none"

    def open(self):
        return str(sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.node.roles.pids()))


def main():
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="registry-node.") as work:
        node = RegistryNode(work)
        try:
            for line in sys.stdin:
                command, *words = line.split()
                print(getattr(node, command)(*words), flush=True)
        finally:
            node.kill()


main()
