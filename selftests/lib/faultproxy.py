#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""faultproxy.py PORT UPSTREAM_PORT MODEFILE [LOG]: a registry that lies, in front of a true one on loopback.

MODEFILE says "MODE COUNT [DIGEST]": the next COUNT (-1: all) range requests for blobs (this blob) are answered so; then truly. Modes: 404, 401,
403, 429, 500, 503 (statuses), short (the body ends early, the connection is kept), flip (one bit of the body), full (200 and the
whole blob), range (another range than asked for), close (the connection ends in mid-body), hang (no answer), later:N (429,
Retry-After: N). LOG gets a line for each range request: seconds since boot, and its mode or "true".
"""
import http.client, http.server, sys, threading, time

HANG_S = 60
port, upstream, mode_file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
log = open(sys.argv[4], "a", buffering=1) if len(sys.argv) > 4 else None
lock = threading.Lock()


def take_mode(path):
    """The fault for this request, or ''; counts it."""
    with lock:
        with open(mode_file) as f:
            mode, count, *only = f.read().split()
        count = int(count)
        if count == 0 or not all(digest in path for digest in only):
            return ""
        if count > 0:
            with open(mode_file, "w") as f:
                f.write(" ".join([mode, str(count - 1)] + only))
        return mode


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def ask(self, headers):
        c = http.client.HTTPConnection("127.0.0.1", upstream)
        c.request(self.command, self.path, headers=headers)
        return c.getresponse()

    def send(self, status, headers, body, promised=None):
        self.send_response_only(status)
        for k, v in headers:
            if k.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(k, v)
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()

    def answer(self):
        headers = {k: ", ".join(self.headers.get_all(k)) for k in self.headers.keys()
                   if k.lower() not in ("host", "connection")}
        is_range = self.command == "GET" and "/blobs/" in self.path and "Range" in self.headers
        mode = take_mode(self.path) if is_range else ""
        if is_range and log:
            print(f"{time.monotonic():.3f} {mode or 'true'}", file=log)
        if mode == "hang":
            time.sleep(HANG_S)
            self.close_connection = True
            return
        if mode.startswith("later:"):
            self.send(429, [("Retry-After", mode[6:])], b"")
            return
        if mode.isdigit():
            self.send(int(mode), [("Content-Type", "application/json")], b'{"errors":[{"code":"TEST"}]}')
            return
        if mode == "full":
            headers.pop("Range")
        if mode == "range":
            first, _, last = headers["Range"].partition("=")[2].partition("-")
            headers["Range"] = f"bytes={int(first) + 1}-{int(last) + 1}"
        r = self.ask(headers)
        body = r.read()
        if self.command == "HEAD":
            self.send(r.status, r.getheaders(), b"", r.getheader("Content-Length"))
        elif mode == "short":
            self.send(r.status, r.getheaders(), body[:len(body) // 2])
        elif mode == "flip":
            at = len(body) // 2
            self.send(r.status, r.getheaders(), body[:at] + bytes([body[at] ^ 1]) + body[at + 1:])
        elif mode == "close":
            self.send(r.status, r.getheaders(), body[:len(body) // 2], len(body))
            self.close_connection = True
        else:
            self.send(r.status, r.getheaders(), body)

    do_GET = do_HEAD = answer


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


Server(("127.0.0.1", port), Handler).serve_forever()
