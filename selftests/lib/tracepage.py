#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tracepage.py PAGE PATH: whether a page of `fastoci trace` is well-formed, needs nothing but itself, and shows PATH missed.

Prints what is wrong; exit status 1 then."""
import re, sys
from html.parser import HTMLParser

VOID = {"meta"}


class Page(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.wrong, self.rows, self.text, self.requests = [], [], [], "", 0

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in ("script", "img", "link", "iframe", "object") or any(a.startswith("on") or a in ("src", "href") for a in attrs):
            self.wrong.append(f"<{tag} {attrs}> loads or runs something")
        if tag in VOID:
            return
        self.open.append(tag)
        kind = attrs.get("class", "").split()
        style = dict(re.findall(r"(left|width):([0-9.]+)%", attrs.get("style", "")))
        if any(not 0 <= float(v) <= 100 for v in style.values()):
            self.wrong.append(f"a bar lies outside: {attrs}")
        if tag == "div" and "row" in kind:
            self.rows.append({"label": "", "miss": 0.0})
        elif tag == "i" and self.rows and "miss" in kind:
            self.rows[-1]["miss"] += float(style.get("width", 0))
        elif tag == "i" and "part" in kind:
            self.requests += 1

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> ends something else")

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] == "bdi" and "td" not in self.open:
            self.rows[-1]["label"] += data


page = Page()
source = open(sys.argv[1], encoding="utf-8").read()
page.feed(source)
page.close()
wrong = page.wrong + [f"<{t}> is not ended" for t in page.open]
if "default-src 'none'" not in source or re.search(r"url\(|@import|https?://", source):
    wrong.append("it may load something")
if not any(r["label"] == sys.argv[2] and r["miss"] > 0 for r in page.rows):
    wrong.append(f"no row shows that {sys.argv[2]} waited: {[r['label'] for r in page.rows][:40]}")
if page.requests == 0:
    wrong.append("it shows no request")
if wrong:
    wrong.append(" ".join(page.text.split())[:1500])
print("\n".join(wrong))
sys.exit(1 if wrong else 0)
