#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ynlcheck.py HEADER SPEC DOC...: whether the YAML specification of the netlink family has the names and numbers of its
header, and each DOC names every command. Prints what differs; status 1 if anything does."""
import re, sys

import yaml


def header_enums(text):
    """enum name -> {entry: number}, without the entries that only count."""
    enums = {}
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    for name, body in re.findall(r"enum (\w+) \{(.*?)\};", text, flags=re.S):
        number, entries = 0, {}
        for entry in filter(None, (e.strip() for e in body.split(","))):
            entry, _, value = (part.strip() for part in entry.partition("="))
            number = int(value, 0) if value else number
            if not entry.startswith("__") and not entry.startswith("FASTOCI_NR_") and not entry.endswith("_UNSPEC"):
                entries[entry] = number
            number += 1
        enums[name] = entries
    return enums


def c_name(prefix, name):
    return (prefix + name).replace("-", "_").upper()


def numbered(prefix, items, first):
    """The entries of a list of the specification as the header would have them."""
    out, number = {}, first
    for item in items:
        item = item if isinstance(item, dict) else {"name": item}
        number = item.get("value", number)
        out[c_name(prefix, item["name"])] = number
        number += 1
    return out


def main():
    header_path, spec_path, *docs = sys.argv[1:]
    with open(header_path) as f:
        text = f.read()
    with open(spec_path) as f:
        spec = yaml.safe_load(f)
    enums, wrong = header_enums(text), []

    def compare(what, ours, theirs):
        for name in sorted(set(ours) | set(theirs)):
            if ours.get(name) != theirs.get(name):
                wrong.append(f"{what}: {name} is {theirs.get(name)} in the header, {ours.get(name)} in the specification")

    operations = spec["operations"]
    compare("command", numbered(operations["name-prefix"], operations["list"], 1), enums["fastoci_cmd"])
    sets = {s["name"]: s for s in spec["attribute-sets"]}
    for name, enum in ("main", "fastoci_attr"), ("chunk", "fastoci_chunk_attr"):
        compare("attribute", numbered(sets[name]["name-prefix"], sets[name]["attributes"], 1), enums[enum])
    for definition in spec["definitions"]:
        name = c_name("fastoci-", definition["name"])
        if definition["type"] == "enum":
            compare("entry", numbered(definition["name-prefix"], definition["entries"], 0), enums[name.lower()])
        elif not re.search(rf"^#define\s+{name}\s+{definition['value']}$", text, flags=re.M):
            wrong.append(f"constant: the header has no {name} {definition['value']}")
    known = {a["name"] for a in sets["main"]["attributes"]}
    for op in operations["list"]:
        for part in op.get("do", {}), op.get("dump", {}), {"event": op.get("event")}:
            for message in filter(None, part.values()):
                wrong += [f"{op['name']}: no attribute {a}" for a in message["attributes"] if a not in known]
    for path in docs:
        with open(path) as f:
            words = set(re.findall(r"[A-Z_]+", f.read()))
        for command in enums["fastoci_cmd"]:
            if command.removeprefix("FASTOCI_CMD_") not in words:
                wrong.append(f"{path} does not name {command.removeprefix('FASTOCI_CMD_')}")
    print("\n".join(wrong), end="\n" if wrong else "")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
