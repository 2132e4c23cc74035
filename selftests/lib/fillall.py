#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""fillall.py [scattered]: makes every chunk of every data space present, whatever the slots hold: in order, or at random places.
For benchmarks of the hit path."""
import os, random, struct, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fakehelper import A_SPACE, CACHE, COUNT, Helper, SLOT, SLOTS, attr, attrs, chunk, u32

NR_CHUNKS = 20

h = Helper()
for space in h.dump("GET_SPACES"):
    cache, no, todo = u32(space[CACHE]), u32(space[A_SPACE]), list(range(u32(space[NR_CHUNKS])))
    if "scattered" in sys.argv[1:]:
        random.Random(1).shuffle(todo)
    while todo:
        got = dict(attrs(h.do("ALLOC", cache, attr(COUNT, min(len(todo), 256)))))[SLOTS]
        for slot in struct.unpack(f"={len(got) // 4}I", got):
            h.do("FILL", cache, chunk(no, todo.pop(0), attr(SLOT, slot)))
