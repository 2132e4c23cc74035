#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""doccommands.py DIR DOCUMENT... [-- TEST PLACE...]: writes each block of commands (```sh) of the documents to DIR/PLACE/NN, as it stands there.

PLACE is where selftests/nodetest runs it: node, or what the line before the block says:
    <!-- nodetest: build -->       where the tree is, before there is a node
    <!-- nodetest: install -->     in the tree that becomes the node's disk
    <!-- nodetest: last -->        at the end of the node's life
    <!-- nodetest: not run, REASON -->
Other tests have places of their own, and say so: -- secureboot build ... reads <!-- secureboot: build -->, and each block of
commands must name one.
A block that does not say its language is an error: nobody would know whether it was to be run. Blocks of JSON, which are
configurations, go to DIR/json. The commands in the last column of tables that say what to do go to DIR/table, one a line."""
import os, re, sys

# What no node of a test can do.
ELSEWHERE = {"apt install linux-headers-amd64": "it takes a mirror"}

folder, documents = sys.argv[1], sys.argv[2:]
test, places = "nodetest", ["node", "build", "install", "last"]
if "--" in documents:
    test, *places = documents[documents.index("--") + 1:]
    documents = documents[:documents.index("--")]
os.makedirs(folder, exist_ok=True)
number = 0
for document in documents:
    with open(document) as f:
        lines = f.read().split("\n")
    to_do = False  # within such a table
    i = 0
    while i < len(lines):
        row = lines[i].strip("| ").split(" | ")
        if lines[i].startswith("|"):
            to_do = to_do or row[-1] in ("do", "what to do")
        else:
            to_do = False
        for command in re.findall(r"`((?:fastoci|systemctl|journalctl|dmsetup|dkms|apt) [^`]+)`", row[-1]) if to_do else []:
            if command in ELSEWHERE:
                print(f"# {document}:{i + 1}: {command} is not run: {ELSEWHERE[command]}")
                continue
            with open(f"{folder}/table", "a") as f:
                f.write(command + "\n")
        fence = re.fullmatch(r"```(.*)", lines[i])
        if not fence:
            i += 1
            continue
        where = f"{document}:{i + 1}"
        end = lines.index("```", i + 1)
        language = fence.group(1)
        if not language:
            sys.exit(f"{where}: a block without a language (sh for commands, text for what is none)")
        mark = re.fullmatch(rf"<!-- {test}: (.*) -->", lines[i - 1]) if i else None
        place = mark.group(1) if mark else "node"
        reason = re.fullmatch(r"not run, (.+)", place)
        if language == "sh" and not reason and place not in places:
            sys.exit(f"{where}: {test}: {place}: not one of its places, which are {', '.join(places)}")
        if language == "sh" and reason:
            print(f"# {where} is not run: {reason.group(1)}")
        elif language in ("sh", "json"):
            place = "json" if language == "json" else place
            number += 1
            os.makedirs(f"{folder}/{place}", exist_ok=True)
            with open(f"{folder}/{place}/{number:02}", "w") as f:
                f.write((f"# {where}\n" if language == "sh" else "") + "\n".join(lines[i + 1:end]) + "\n")
        i = end + 1
