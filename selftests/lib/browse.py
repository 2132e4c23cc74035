#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""browse.py PAGE FOLDER [--no-bars]: a page of `fastoci trace` (--no-bars: of convertor --serve) as a browser shows it, light
and dark, on a phone and on a desktop.

In headless Chromium, for each theme and width: nothing is wider than the window, each row has a label that can be seen and a
bar that is within its track, text stands out from what is behind it (WCAG 2.1, 4.5:1) and the theme is followed. Pictures go
to FOLDER. Prints KTAP; exit status 1 if something is wrong."""
import html, json, os, re, subprocess, sys
import ktap
from ktap import check

BROWSER = "chromium-headless-shell"
WIDTHS = {"phone": (390, 844), "desktop": (1280, 800)}

# Around the page, which may run no script itself: a frame of the wanted width, and what looks into it.
FRAME = """<!doctype html><meta charset="utf-8"><style>:root{color-scheme:%(theme)s}body{margin:0}
iframe{border:0;display:block;width:%(width)dpx;height:%(height)dpx}</style>
<iframe id="page" srcdoc="%(page)s"></iframe><script>
function rgba(text) {
  const n = text.match(/[0-9.]+/g).map(Number);
  return n.length < 4 ? [...n, 1] : n;
}
function over(top, below) { return below.map((b, i) => top[i] * top[3] + b * (1 - top[3])); }
function behind(element, view) {  // what an element's text is drawn on
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.push(rgba(view.getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((below, top) => over(top, below), CANVAS);
}
function luminance(c) {
  const l = c.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2];
}
function contrast(a, b) {
  const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05);
}
const CANVAS = %(canvas)s;
onload = () => {
  const frame = document.getElementById("page"), page = frame.contentDocument, view = frame.contentWindow;
  const root = page.documentElement, faint = [], wide = [], lost = [], bars = [];
  for (const e of page.body.querySelectorAll("*")) {
    const box = e.getBoundingClientRect(), style = view.getComputedStyle(e);
    const words = [...e.childNodes].filter(n => n.nodeType == 3).map(n => n.data.trim()).join(" ").trim();
    if (!words || !box.width || style.visibility == "hidden") continue;
    const ground = behind(e, view), ratio = contrast(over(rgba(style.color), ground), ground);
    if (ratio < 4.5) faint.push(words.slice(0, 40) + " " + ratio.toFixed(2));
    if (!e.closest(".scroll") && box.right > root.clientWidth + 0.5) wide.push(words.slice(0, 40));
  }
  for (const row of page.querySelectorAll(".row")) {
    const label = row.querySelector("bdi"), box = label && label.getBoundingClientRect();
    if (!row.matches(".axis") && (!box || box.width < 10 || box.height < 8)) lost.push(row.textContent.slice(0, 40));
    for (const bar of row.querySelectorAll(".track > i")) {
      const b = bar.getBoundingClientRect(), track = bar.parentElement.getBoundingClientRect();
      if (b.width > 0 && b.height > 0 && b.left >= track.left - 1 && b.right <= track.right + 1) bars.push(b.width);
      else lost.push("a bar of " + row.textContent.slice(0, 40));
    }
  }
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify({
    width: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight, faint, wide, lost, bars: bars.length,
    rows: page.querySelectorAll(".row").length, ground: luminance(behind(page.body, view))});
  document.body.append(out);
};</script>"""


def browse(path, *options):
    run = subprocess.run([BROWSER, "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000",
                          *options, "file://" + path], capture_output=True, text=True, timeout=120)
    return run.stdout


page, folder = open(sys.argv[1], encoding="utf-8").read(), os.path.realpath(sys.argv[2])
os.makedirs(folder, exist_ok=True)
for theme, canvas in (("light", "[255,255,255,1]"), ("dark", "[18,18,18,1]")):
    for device, (width, height) in WIDTHS.items():
        name = f"{theme}-{device}"
        frame = os.path.join(folder, name + ".html")

        def write(tall):
            with open(frame, "w", encoding="utf-8") as f:
                f.write(FRAME % dict(theme=theme, canvas=canvas, width=width, height=tall, page=html.escape(page)))

        write(height)
        text = browse(frame, f"--window-size={width},{height}", "--dump-dom")
        found = re.search(r'<pre id="found">(.*?)</pre>', text, re.S)
        if not check(f"{name}: a browser shows the page", found, text[-500:]):
            continue
        found = json.loads(html.unescape(found[1]))
        check(f"{name}: at its width, and not wider", found["width"] == width and found["scroll"] <= width and not found["wide"],
              str(found))
        if "--no-bars" not in sys.argv:
            check(f"{name}: each row has its label and its bars", found["rows"] > 0 and found["bars"] > 0 and not found["lost"],
                  str(found))
        check(f"{name}: all text can be read", not found["faint"], str(found["faint"]))
        check(f"{name}: it follows the theme", found["ground"] > 0.5 if theme == "light" else found["ground"] < 0.1,
              str(found["ground"]))
        write(found["height"])
        picture = os.path.join(folder, name + ".png")
        browse(frame, f"--window-size={width},{found['height']}", f"--screenshot={picture}")
        check(f"{name}: its picture is kept", os.path.getsize(picture) > 1000)
ktap.end()
