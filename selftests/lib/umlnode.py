# SPDX-License-Identifier: Apache-2.0
"""Nodes with containerd for benchmarks, which share a registry's store. They are machines of User-Mode Linux (mkkernel
umlnode), or, with BENCH_MACHINE=vm, virtual machines with Debian's newest kernel (vmrun)."""
import contextlib, json, os, subprocess, sys, tempfile

from coldnode import BIN, LIB, NAME, TOP, answers, run, wait_until

VM = os.environ.get("BENCH_MACHINE") == "vm"
KERNEL = run(TOP + "/selftests/kernels").split()[-1] if VM else "umlnode"


def own_network():
    """Runs the program again in a network of its own, as port 5000 may be taken here; returns in that run."""
    if os.environ.get("UMLNODE_UNSHARED") != str(os.getppid()):
        os.environ["UMLNODE_UNSHARED"] = str(os.getpid())
        sys.exit(subprocess.run(["unshare", "--net", sys.executable, *sys.argv]).returncode)
    run("ip", "link", "set", "lo", "up")


def build():
    """The kernel, and its module: what node() takes."""
    if VM:
        run("make", "-s", "-C", TOP, "kmod-" + KERNEL)
        return KERNEL
    kernel, folder = run(TOP + "/selftests/mkkernel", KERNEL).strip(), f"{TOP}/build/kmod/{KERNEL}"
    run("bash", "-c", f"mkdir -p {folder} && cp -ru {TOP}/kmod/. {folder}/ && cp -u {TOP}/include/uapi/*.h {folder}/ &&"
        f" make -s -C {kernel} M={folder} ARCH=um modules")
    return kernel


@contextlib.contextmanager
def registry(store):
    """docker-registry on port 5000 with its data in that folder, for as long as the block runs."""
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as f, open(store + ".log", "w") as log:
        json.dump({"version": 0.1, "log": {"level": "error", "accesslog": {"disabled": True}},
                   "storage": {"filesystem": {"rootdirectory": store}}, "http": {"addr": "127.0.0.1:5000"}}, f)
        f.flush()
        server = subprocess.Popen(["docker-registry", "serve", f.name], stdout=log, stderr=log)
        try:
            wait_until("docker-registry", lambda: answers(5000))
            yield
        finally:
            server.terminate()
            server.wait()


def push(layout, tag, name):
    run("skopeo", "--insecure-policy", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false",
        f"oci:{layout}:{tag}", f"docker://127.0.0.1:5000/{name}")


def convert(name, tag, new_tag):
    run(BIN + "/convertor", "-r", "127.0.0.1:5000/" + name, "-i", tag, "--fastoci", new_tag, "--plain")


def node(kernel, log, script, *args):
    """What the script prints in a machine, decoded, a line each. LOG.log has its other output, LOG.console the kernel's."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="umlnode.") as disks, open(log + ".log", "w") as err:
        disk = disks + "/disk"
        with open(disk, "wb") as f:
            f.truncate(8 << 30)
        # One CPU in both: see the case containerd.
        machine = (["vmrun", "-k", kernel, "-c", "1"] if VM else
                   ["umlrun", "-k", kernel + "/linux", "--modules", kernel + "/mods"])
        done = subprocess.run([TOP + "/selftests/" + machine[0], *machine[1:], "-m", "3G", "--image", disk,
                               "--timeout", "900", "--log", log + ".console", "--",
                               "env", "SELFTEST_KERNEL=" + KERNEL, "SELFTEST_FILES=/tmp", f"{LIB}/{script}", *map(str, args)],
                              stdout=subprocess.PIPE, stderr=err, text=True)
    if done.returncode:
        with open(log + ".log") as f:
            sys.exit(f"{NAME}: {script} {' '.join(map(str, args))}: status {done.returncode}\n{f.read()[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]
