#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""benchpage.py: docs/benchmarks.md and its plots (docs/benchmarks/*.svg) from build/bench/*.json, as `make bench` leaves them.

A group that was not measured keeps what the page says of it. Each group is kept between two marks in the page."""
import datetime, json, os, platform, re, subprocess

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "fastoci", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
                            "figure.constrained_layout.use": True})
import matplotlib.pyplot as plt

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGE, PLOTS, BENCH = TOP + "/docs/benchmarks.md", TOP + "/docs/benchmarks", TOP + "/build/bench"
OURS, OTHERS = "#2f6feb", "#9aa5b1"
MIB = 1 << 20
ORDER = ["hit", "lookup", "cold", "cost", "eager", "service", "density", "convert", "cache", "scale"]

HEAD = """# Benchmarks

`make bench` measures everything on this page, and writes the page anew; `make bench GROUP=hit` does so for one group. Each
section says when and where its figures were taken. Other machines give other seconds; the ratios are within one run, so they
carry over. An aim that was missed says so.
"""


def load(name):
    try:
        with open(f"{BENCH}/{name}.json") as f:
            return json.load(f)
    except (OSError, ValueError):
        return None


def machine():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*: (.*)", f.read())
    return f"{os.cpu_count()} CPUs ({model.group(1).strip() if model else platform.machine()}), Linux {platform.release().split('-')[0]}"


def when(name):
    return datetime.date.fromtimestamp(os.path.getmtime(f"{BENCH}/{name}.json")).isoformat()


def stamp(name, command, where=None):
    return f"`{command}`, {when(name)}, on {where or machine()}.\n"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]) + "\n"


def number(value):
    return f"{value:.3f}" if value < 2 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def aims_row(figures, key, what, aim, sign):
    if key not in figures:
        return [f"`{key}`", what, "not measured", f"{sign} {aim}", ""]
    met = figures[key] <= aim if sign == "<=" else figures[key] >= aim
    return [f"`{key}`", what, number(figures[key]), f"{sign} {aim}", "met" if met else "**missed**"]


def aims_table(figures, aims):
    rows = [aims_row(figures, key, *aim) for key, aim in aims.items()]
    return table(["key", "what", "measured", "aim", ""], rows)


def bars(name, title, labels, values, ours, unit, log=False):
    """One horizontal bar a row; ours: the labels that are FastOCI's."""
    figure, axes = plt.subplots(figsize=(7, 0.32 * len(labels) + 0.9))
    axes.barh(labels, values, color=[OURS if label in ours else OTHERS for label in labels])
    for i, value in enumerate(values):
        axes.text(value, i, f" {value:,.0f}" if value >= 100 else f" {value:.3g}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(unit)
    axes.margins(x=0.15)
    if log:
        axes.set_xscale("log")
    save(figure, name)
    return f"![{title}](benchmarks/{name}.svg)\n"


def save(figure, name):
    os.makedirs(PLOTS, exist_ok=True)
    figure.savefig(f"{PLOTS}/{name}.svg", metadata={"Date": None})
    plt.close(figure)


HIT_NAMES = {"brd": "the ramdisk itself", "linear": "dm-linear", "fastoci_10k": "dm-fastoci, 10,000 extents",
             "fastoci_1m": "dm-fastoci, 1,000,000 extents", "fastoci_flat": "dm-fastoci, one extent, chunks in order",
             "fastoci_scattered": "dm-fastoci, one extent, chunks scattered", "ext4_file": "file of ext4 on the ramdisk",
             "fastoci_file": "file of ext4 on dm-fastoci", "bindfs": "file of bindfs (FUSE)", "squashfuse": "file of squashfuse (FUSE)",
             "ublk": "ublk, data in memory", "nbd": "NBD, nbdkit in memory", "tcmu": "tcmu-runner, loopback SCSI"}


def hit():
    data = load("hit")
    if not data:
        return None
    kernel = [k for k, v in data.items() if isinstance(v, dict)][-1]
    f, patterns = data[kernel]["instructions"], ["4k_random_qd1", "4k_random_p50", "4k_random_p99", "4k_random_qd32", "128k_random", "1m_sequential"]
    names = [n for n in HIT_NAMES if n in f]
    text = "How many instructions the machine executes for one read of what is in the cache, from the system call to its return.\n\n"
    text += stamp("hit", "make bench GROUP=hit", f"Linux {kernel} in a virtual machine with one CPU whose clock counts instructions")
    text += "All data lie in memory. Peers are the packages of Debian 12 with their defaults. p50 and p99 are of single reads; the others are the least of ten batches.\n\n"
    text += aims_table(data, {
        "hit_ratio_10k": ("random 4 KiB at 10,000 extents, over dm-linear", 1.05, "<="),
        "hit_ratio_1m": ("the same at 1,000,000 extents", 1.07, "<="),
        "seq_1m_ratio": ("1 MiB in order, over dm-linear", 1.10, "<="),
        "scattered_1m_ratio": ("1 MiB over scattered 64 KiB chunks, over dm-linear", 2.0, "<="),
        "ublk_ratio": ("ublk over dm-fastoci, random 4 KiB", 3.5, ">="),
        "fuse_ratio": ("the better FUSE file system over a file of ext4 on dm-fastoci", 4.5, ">="),
        "nbd_ratio": ("NBD over dm-fastoci, random 4 KiB", 10, ">="),
        "tcmu_ratio": ("tcmu-runner over dm-fastoci, random 4 KiB", 10, ">=")}) + "\n"
    if data.get("fuse_ratio", 99) < 4.5:
        text += (f"Why `fuse_ratio` is missed: of the {f['fastoci_file']['4k_random_qd1']:,} instructions of a read of a file, "
                 f"{f['ext4_file']['4k_random_qd1']:,} are ext4's and the ramdisk's, "
                 f"{f['linear']['4k_random_qd1'] - f['brd']['4k_random_qd1']:,} device-mapper's (dm-linear has them too) and "
                 f"{f['fastoci_10k']['4k_random_qd1'] - f['linear']['4k_random_qd1']:,} dm-fastoci's own. bindfs reads from tmpfs and has "
                 "no block device below it, so it is the least that any FUSE file system can cost. squashfuse, which reads an image as "
                 f"FastOCI does, costs {data['squashfuse_ratio']:.0f} times ours.\n\n")
    ours = {HIT_NAMES[n] for n in names if n.startswith("fastoci")}
    rows = [n for n in names if "4k_random_qd1" in f[n]]
    text += bars("hit-4k", "Random 4 KiB, one at a time", [HIT_NAMES[n] for n in rows], [f[n]["4k_random_qd1"] for n in rows], ours,
                 "guest instructions per read")
    rows = [n for n in names if "1m_sequential" in f[n]]
    text += bars("hit-1m", "1 MiB in order", [HIT_NAMES[n] for n in rows], [f[n]["1m_sequential"] for n in rows], ours,
                 "guest instructions per read") + "\n"
    text += table(["", *(p.replace("_", " ") for p in patterns)],
                  [[HIT_NAMES[n], *(f"{f[n][p]:,}" if p in f[n] else "" for p in patterns)] for n in names])
    for name, why in data[kernel].get("skipped", {}).items():
        text += f"\n{HIT_NAMES.get(name, name)} was not measured: {why}.\n"
    return text


def lookup():
    data = load("lookup")
    if not data:
        return None
    sizes = ["1k", "10k", "100k", "1m"]
    text = "How many million places a second one CPU finds in an image's extent table (kmod/extent.h, the module's own code in user space).\n\n"
    text += stamp("lookup", "make bench GROUP=lookup") + "\n"
    text += aims_table(data, {f"mps_{s}": (f"independent look-ups at {s} extents, M/s", aim, ">=")
                              for s, aim in zip(sizes, (140, 95, 55, 35))}) + "\n"
    figure, both = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
    for axes, suffix, title in zip(both, ("", "_dependent"), ("independent", "each needs the last one's result")):
        for key, label, colour, mark in (("mps", "FastOCI", OURS, "o"), ("btree", "absl::btree_map", "#b08800", "s"),
                                         ("lower_bound", "std::upper_bound over an array", OTHERS, "^")):
            axes.plot(sizes, [data[f"{key}_{s}{suffix}"] for s in sizes], marker=mark, color=colour, label=label)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_yscale("log")
        axes.set_xlabel("extents")
    both[0].set_ylabel("million look-ups a second")
    both[0].legend(frameon=False, fontsize=8)
    save(figure, "lookup")
    text += "![Look-ups a second](benchmarks/lookup.svg)\n\n"
    rows = [[f"{label}{', dependent' if suffix else ''}", *(f"{data[f'{key}_{s}{suffix}']:.1f}" for s in sizes)]
            for suffix in ("", "_dependent")
            for key, label in (("mps", "FastOCI"), ("btree", "absl::btree_map"), ("lower_bound", "std::upper_bound"))]
    return text + table(["M/s", *(s + " extents" for s in sizes)], rows)


def cold():
    data = load("cold")
    if not data:
        return None
    text = ("What a read of something that is not cached costs, and how long all of a layer takes to fetch. The helper is the real one, "
            "with its broker, fetcher and decoders; the registry is docker-registry on the same machine; the cache is a loop device "
            "with direct I/O. A program answers the helper in the kernel's place, so no virtual machine is in the way.\n\n")
    text += stamp("cold", "make bench GROUP=cold")
    if "blob_mib" in data:
        text += (f"The layer has {data['blob_mib']:.0f} MiB (gzip) and {data['data_mib']:.0f} MiB unpacked. Each figure is the median "
                 f"of {data['rounds']} rounds.\n")
    text += "\n" + aims_table(data, {
        "cpu_ratio": ("CPU time of an eager fetch, over curl + inflate + SHA-256 + write on one core", 1.3, "<="),
        "eager_wall_ratio": ("its wall time, over that CPU time divided by the CPUs", 1.35, "<="),
        "eager_vs_gzip": ("its wall time, over `curl \\| gzip -dc \\| tee >(sha256sum) \\| dd`", 0.3, "<="),
        "eager_vs_igzip": ("the same with igzip", 0.9, "<="),
        "miss_ratio": ("one cold miss, over a GET of its range and its inflation", 1.3, "<="),
        "seq_link_share": ("share of a 400 Mbit/s, 100 ms link that a sequential read uses", 0.8, ">="),
        "burst_ratio": ("64 misses at once at 100 ms, over one", 2.5, "<="),
        "foreign_miss_ratio": ("a miss while another host answers nothing, over the same alone", 1.3, "<="),
        "peak_mib": ("memory of all roles in the eager fetch, MiB", 160, "<=")}) + "\n"
    if "eager_s" in data:
        labels = {"eager_s": "FastOCI, eager", "igzip_s": "curl | igzip | sha256sum | dd", "gzip_s": "curl | gzip | sha256sum | dd"}
        text += bars("cold-eager", "All of a layer onto the disk", list(labels.values()), [data[k] for k in labels], {"FastOCI, eager"}, "s") + "\n"
    seconds = {"miss_ms": "one cold miss (median), ms", "miss_floor_ms": "its floor, ms", "one_slow_miss_ms": "one cold miss at 100 ms, ms",
               "burst_ms": "64 of them at once, ms", "burst_floor_ms": "curl for the same ranges at once, ms",
               "seq_later_share": "share of the link, last three quarters", "disk_s": "the disk alone for the eager fetch, s", "eager_cpu_s": "CPU time of the eager fetch, s", "floor_cpu_s": "its floor, s"}
    return text + table(["", "measured", "range of the rounds"], [[what, f"{data[k]:.4g}", "{:.4g} to {:.4g}".format(*data["spread"][k])]
                                                                  for k, what in seconds.items() if k in data])


def cost():
    data = load("cost")
    if not data:
        return None
    text = ("What FastOCI takes from a node, by GB (2^30 bytes) of unpacked data that was asked for. `selftests/bench-cost` says how each "
            "figure is measured.\n\n" + stamp("cost", "make bench GROUP=cost") + f"Each figure is the median of {data['rounds']} rounds.\n\n")
    ways = {"eager": "fetched ahead, all of a layer", "cold": "read in order, each read waits", "random": "64 KiB at random, each read waits"}
    text += table(["", *ways.values()], [[what, *(number(data[f"{way}_{key}"]) for way in ways)] for key, what in (
        ("cpu_s_per_gb", "CPU seconds of the helper per GB"), ("peak_mib", "most memory of the helper, MiB"),
        ("fetched_per_byte", "bytes fetched per byte asked for"), ("written_per_byte", "bytes written to the cache device per byte asked for"))])
    rows = [["`miss_p50_ms`", "a miss, median of 400, ms", data["miss_p50_ms"]], ["`miss_p99_ms`", "a miss, 99th percentile, ms", data["miss_p99_ms"]],
            ["`idle_pss_kib`", "memory of the helper for one more idle image, KiB", data["idle_pss_kib"]],
            ["`idle_cpu_ms_per_hour`", "CPU time of the helper with 32 idle images, ms an hour", data["idle_cpu_ms_per_hour"]]]
    if "hot_insn_per_gb" in data:
        rows.append(["`hot_insn_per_gb`", "instructions of the kernel for a GB of what is cached, by 1 MiB in order", data["hot_insn_per_gb"]])
    return text + "\n" + table(["key", "what", "measured"], [[*row[:2], number(row[2])] for row in rows])


EAGER_NAMES = {"fastoci": "fastoci prefetch", "ranges": "parallel ranges, igzip | tar (SOCI's way)", "containerd": "containerd pull",
               "umoci": "skopeo copy, umoci raw unpack"}


def eager():
    data = load("eager")
    if not data:
        return None
    text = (f"How long until all of an image is on the node. Two images of {data['data_mib']:.0f} MiB of files: in one layer, and in 30. "
            "`selftests/bench-eager` says how each peer is run.\n\n" + stamp("eager", "make bench GROUP=eager") +
            f"Each figure is the median of {data['rounds']} rounds.\n\n")
    text += aims_table(data, {"over_best_peer": ("our time over that of the fastest peer, the worse image", 0.55, "<=")}) + "\n"
    for name, what in (("one", "one layer"), ("many", "30 layers")):
        ways = [w for w in EAGER_NAMES if f"{w}_s" in data[name]]
        text += bars(f"eager-{name}", f"All of {data[name]['blob_mib']:.0f} MiB in {what}", [EAGER_NAMES[w] for w in ways],
                     [data[name][f"{w}_s"] for w in ways], {EAGER_NAMES["fastoci"]}, "s")
    text += "\n" + table(["seconds", "one layer", "30 layers"], [[EAGER_NAMES[w].replace("|", "\\|"), *("{:.1f} ({:.1f} to {:.1f})".format(
        data[n][f"{w}_s"], *data[n]["spread"][w]) for n in ("one", "many"))] for w in EAGER_NAMES])
    counts = list(data["model"])
    text += ("\nBy a model and not measured: with more CPUs, the fetch of the one layer takes its CPU time divided by them, if registry and "
             "disk keep up; a peer inflates one layer as one stream, whatever the number of CPUs.\n\n")
    return text + table(["seconds, by CPUs", *counts], [[what, *(f"{data['model'][n][key]:.1f}" for n in counts)] for key, what in (
        ("fastoci", "fastoci prefetch"), ("one_stream", "igzip alone, one layer"))])


SERVICES = {"web": "nginx, php-fpm and Symfony", "small": "Flask", "science": "Flask, SciPy, pandas and more",
            "model": "a model server that reads all its weights"}
SLOWER = {"inflate_s": "inflation takes", "sha256_s": "SHA-256", "syscall_us": "a system call",
          "page_us": "the first touch of a page", "process_ms": "a new process"}
WAYS = {"full": "containerd, all of it", "cold": "FastOCI", "traced": "FastOCI, recorded start", "warm": "FastOCI, warm"}


def service_aims(data, names):
    """A row for each image and aim. The model server's aim is that it never loses."""
    rows = []
    for name in names:
        for key, what, aim, sign in (("cold_speedup", "full pull over FastOCI", 1 if name == "model" else 3, ">="),
                                     ("traced_speedup", "full pull over FastOCI, recorded start", 1 if name == "model" else 5, ">="),
                                     ("traced_over_bound", "that, over a warm start and the link's time", 1.25, "<=")):
            rows.append([f"`{name}`", *aims_row(data[name], key, what, aim, sign)])
    return table(["image", "key", "what", "measured", "aim", ""], rows)


def service_node(data):
    slower = ", ".join(f"{what} {data['slower'][key]:.1f} times" for key, what in SLOWER.items() if key in data["slower"])
    rounds = "one round" if data["rounds"] == 1 else f"medians of {data['rounds']} rounds"
    if data["machine"] == "vm":
        text = (f"The node is a virtual machine with one CPU and Linux {data['kernel']}, which the registry shares. No CPU helps QEMU "
                "here, so all that programs do is many times slower than on a real node. The link is as many times slower as inflation "
                "is, so the ratios count and the seconds do not. ")
        end = ("So SHA-256, system calls and new processes weigh more or less here, beside inflation and the link, than on a real "
               "node. Timers and the disk, which is in memory, are not slower. ")
    else:
        text = (f"The node is User-Mode Linux {data['kernel']}: a kernel as a process, with dm-fastoci, containerd and runc in it. "
                "It has one CPU, which the registry uses, too, and its disk is in memory. The link's rates are real. Programs run at "
                "the machine's own speed, but their calls into the kernel cost more. ")
        end = ("So the phases create and run, which have most of these calls, are longer than on a real node, in each way. Time that "
               "passes on the link or in inflation is not. ")
    return (f"{text}In the same run, beside the machine itself: {slower}. {end}More CPUs would help unpigz and containerd, which "
            f"unpacks while it downloads, and our decoders. Figures are {rounds}.\n\n")


def service_rows(data, names):
    for name in names:
        for mbit in data["links"]:
            for way, what in WAYS.items():
                figures = data[name]["links"][str(mbit)].get(way)
                if not figures:
                    continue
                seconds = [f"{figures[k]:.1f}" for k in ("pull_s", "create_s", "run_s", "total_s")]
                fetched = data[name]["image_bytes"] if way == "full" else figures.get("bytes", 0)
                yield [f"`{name}`", mbit, what, *seconds, f"{fetched / MIB:.1f}"]


def service():
    data = load("service")
    if not data:
        return None
    names, missing = [n for n in SERVICES if n in data], [n for n in SERVICES if n not in data]
    text = ("How long until a service answers: from the beginning of the pull to the first right answer. The images are made of "
            "Debian packages (`selftests/lib/mkservices`): " + ", ".join(f"`{n}`, {SERVICES[n]}" for n in names) +
            f". The registry is behind a link with a round trip of {data['rtt_ms']} ms. `selftests/bench-service` says how each way "
            "is run.\n\n" + stamp("service", "make bench GROUP=service") + "\n" + service_node(data))
    if missing:
        text += f"Not measured: {', '.join(SERVICES[n] for n in missing)}.\n\n"
    if "traced_skipped" in data:
        text += f"A recorded start was not measured: {data['traced_skipped']}.\n\n"
    text += (f"At {min(data['links'])} Mbit/s; the link's time is that of what a start reads (its trace), compressed as its layers are.\n\n" +
             service_aims(data, names) + "\n")
    for mbit in data["links"]:
        starts = [(f"{n}: {what}", data[n]["links"][str(mbit)][way]["total_s"]) for n in names for way, what in WAYS.items()
                  if way in data[n]["links"][str(mbit)]]
        labels, values = zip(*starts)
        text += bars(f"service-{mbit}", f"Until the first right answer, {mbit} Mbit/s", labels, values,
                     {label for label in labels if "FastOCI" in label}, "s")
    return text + "\n" + table(["image", "Mbit/s", "way", "pull, s", "create, s", "run, s", "in all, s", "fetched, MiB"],
                               service_rows(data, names))


def density_what(key):
    """What a figure of density.json is. The numbers in its keys are those of the run."""
    for pattern, what in ((r"attach_(\d+)_s", "{} devices attached, one after the other, s"),
                          (r"storm_(\d+)_s", "{} containers of one image, started at once, s"),
                          (r"storm_(\d+)_images_s", "{} containers, each of its own image, s"),
                          (r"attached_kernel_bytes", "memory of the kernel for each attached image, bytes"),
                          (r"attached_helper_bytes", "memory of the helper for each attached image, bytes")):
        if match := re.fullmatch(pattern, key):
            return what.format(*(f"{int(n):,}" for n in match.groups()))
    return ""


def density():
    data = load("density")
    if not data:
        return None
    text = ("Many images, devices and containers on one node: User-Mode Linux with one CPU, where calls into the kernel cost several "
            "times as much as on a real node. `selftests/bench-density` says what each figure is.\n\n")
    text += stamp("density", "make bench GROUP=density") + "\n"
    seconds = {density_what(key).removesuffix(", s"): value for key, value in data.items() if key.endswith("_s")}
    text += bars("density", "Many on a node", list(seconds), list(seconds.values()), set(seconds), "s") + "\n"
    return text + table(["key", "what", "measured"], [[f"`{k}`", density_what(k), f"{v:,}" if isinstance(v, int) else f"{v:.1f}"]
                                                      for k, v in data.items()])


def convert():
    data = load("convert")
    if not data:
        return None
    text = "What a conversion makes and costs. README says which image it is.\n\n" + stamp("convert", "make bench GROUP=convert") + "\n"
    rows = [["`meta_percent_ext4`", "meta layers, % of the compressed image", f"{data['meta_percent_ext4']:.2f}"],
            ["`meta_percent_erofs`", "the same with erofs", f"{data['meta_percent_erofs']:.2f}"],
            ["`gzip_meta_percent`", "the gzip index in them", f"{data['gzip_meta_percent']:.2f}"],
            ["`cpu_ratio`", "CPU time over `gzip -dc \\| sha256sum`", f"{data['cpu_ratio']:.2f}"],
            ["`wall_ratio`", "wall time over the same", f"{data['wall_ratio']:.2f}"],
            ["`peak_mib`", "most memory, MiB", f"{data['peak_mib']:.0f}"]]
    return text + table(["key", "what", "measured"], rows)


def cache():
    data = load("cache")
    if not data:
        return None
    text = "How often a read finds its chunk in a cache that is too small, on a recorded trace; docs/cache.md explains it.\n\n"
    return text + stamp("cache", "make bench GROUP=cache") + "\n```json\n" + json.dumps(data, indent=1)[:2000] + "\n```\n"


def scale():
    data = load("scale")
    if not data:
        return None
    text = "Large numbers of things in the kernel module; docs/dm-fastoci.rst says what bounds them.\n\n"
    text += stamp("scale", "make bench GROUP=scale", "an emulated virtual machine") + "\n"
    return text + table(["figure", "measured"], [[f"`{k}`", f"{v:,}" if isinstance(v, int) else f"{v:.4g}"] for k, v in data.items()])


TITLES = {"hit": "A read of what is cached", "lookup": "Look-ups in the extent table", "cold": "A miss, and an eager fetch", "cost": "What a node pays",
          "eager": "All of a large image",
          "service": "Until a service answers", "density": "Many images on a node",
          "convert": "A conversion", "cache": "Which chunks stay in the cache", "scale": "Many of everything"}


def notes(name):
    """What no program finds: why an aim is missed, in docs/benchmarks/NAME.notes."""
    try:
        with open(f"{os.path.dirname(PAGE)}/benchmarks/{name}.notes") as f:
            return "\n" + f.read()
    except OSError:
        return ""


def main():
    old = {}
    try:
        with open(PAGE) as f:
            old = dict(re.findall(r"<!-- begin (\w+) -->\n(.*?)<!-- end \w+ -->\n", f.read(), re.S))
    except OSError:
        pass
    parts = [HEAD]
    for name in ORDER:
        made = {"hit": hit, "lookup": lookup, "cold": cold, "cost": cost, "eager": eager, "service": service,
                "density": density, "convert": convert, "cache": cache, "scale": scale}[name]()
        body = f"## {TITLES[name]}\n\n{made}{notes(name)}" if made else old.get(name)
        if body:
            parts.append(f"<!-- begin {name} -->\n{body}<!-- end {name} -->\n")
    with open(PAGE, "w") as f:
        f.write("\n".join(parts))
    print(os.path.relpath(PAGE, TOP))


if __name__ == "__main__":
    main()
