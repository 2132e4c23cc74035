#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A registry that asks for credentials as one of the big ones does, in front of a
plain docker-registry:

  registry_front.py PORT UPSTREAM DIR

DIR/state.json says how it behaves, and is read again for each request:
  kind           basic, ecr, ecr-public, hub, gitlab, acr
  user, password (of acr: password is the refresh token)
  token_uses     a token is good for so many requests (0: for all)
  change_after   after so many requests that were let in, DIR/change is run once,
                 which writes a new state.json
What it saw is appended to DIR/log, without secrets.
"""
import base64
import http.client
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, UPSTREAM, DIR = int(sys.argv[1]), sys.argv[2], sys.argv[3]
LOCK = threading.Lock()
TOKENS = {}  # token -> [scopes, uses, password that it was made for]
COUNT = {"in": 0, "limited": 0}
# What ECR Public says with its 400; the others' refusals need no words.
WORDS = {"ecr-public": b'{"errors":[{"code":"DENIED","message":"Your Authorization Token has expired. Please run ..."}]}'}
REFUSED = {"basic": 401, "ecr": 403, "ecr-public": 400, "hub": 401, "gitlab": 401, "acr": 401}


def state():
    with open(DIR + "/state.json", encoding="utf-8") as f:
        return json.load(f)


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def note(self, text):
        with open(DIR + "/log", "a", encoding="utf-8") as f:
            f.write(f"{self.command} {self.path.split('?')[0]} {text}\n")

    def answer(self, status, headers=None, body=b""):
        self.note(status)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def challenge(self, s):
        if s["kind"] in ("basic", "ecr"):
            return self.answer(401, {"WWW-Authenticate": 'Basic realm="front"'})
        name = "/".join(self.path.split("/")[2:4])
        service = ',service="front"' if s["kind"] != "hub" else ""
        return self.answer(401, {
            "WWW-Authenticate": f'Bearer realm="http://127.0.0.1:{PORT}/token"{service},'
                                f'scope="repository:{name}:pull"'})

    def basic_is_right(self, s):
        want = "Basic " + base64.b64encode(f'{s["user"]}:{s["password"]}'.encode()).decode()
        return self.headers.get("Authorization") == want

    def token(self):
        s = state()
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        form = urllib.parse.parse_qs(self.body().decode())
        if "service" in query and not query["service"][0]:
            return self.answer(400)
        if s["kind"] == "acr":
            if self.command != "POST" or form.get("refresh_token") != [s["password"]]:
                return self.answer(400)
            scopes = form.get("scope", [""])[0].split(" ")
        else:
            if not self.basic_is_right(s):
                return self.answer(401)
            scopes = query.get("scope", [])
        with LOCK:
            token = f"token{len(TOKENS)}"
            TOKENS[token] = [scopes, 0, s["password"]]
        return self.answer(200, {"Content-Type": "application/json"},
                           json.dumps({"access_token": token, "expires_in": 300}).encode())

    def let_in(self, s):
        """None if it is, else the status."""
        if s["kind"] in ("basic", "ecr"):
            return None if self.basic_is_right(s) else REFUSED[s["kind"]]
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        known = TOKENS.get(given)
        name = self.path.split("/v2/", 1)[-1].split("/blobs/")[0].split("/manifests/")[0]
        name = name.split("/referrers/")[0]
        if known is None or known[2] != s["password"]:
            return REFUSED[s["kind"]]
        if s["kind"] == "gitlab" and not any(f"repository:{name}:" in scope for scope in known[0]):
            return 403
        known[1] += 1
        if s.get("token_uses") and known[1] > s["token_uses"]:
            return REFUSED[s["kind"]]
        return None

    def serve(self):
        if self.path.split("?")[0] == "/token":
            return self.token()
        body = self.body()
        with LOCK:
            s = state()
            if not self.headers.get("Authorization"):
                return self.challenge(s)
            status = self.let_in(s)
            if status == 401:
                return self.challenge(s)
            if status is not None:
                return self.answer(status, None, WORDS.get(s["kind"], b""))
            COUNT["in"] += 1
            change = s.get("change_after") and COUNT["in"] >= s["change_after"]
            if change:
                COUNT["in"] = 0
                subprocess.run([DIR + "/change"], check=True)
            if s["kind"] == "hub" and "/manifests/" in self.path and COUNT["limited"] < 1:
                COUNT["limited"] += 1
                return self.answer(429, {"Retry-After": "1", "RateLimit-Limit": "100;w=21600",
                                         "RateLimit-Remaining": "0;w=21600"})
        upstream = http.client.HTTPConnection(UPSTREAM)
        upstream.putrequest(self.command, self.path, skip_accept_encoding=True)
        for name, value in self.headers.items():  # Accept is there several times
            if name.lower() not in ("host", "authorization", "connection"):
                upstream.putheader(name, value)
        upstream.endheaders(body or None)
        reply = upstream.getresponse()
        data = reply.read()
        self.note(reply.status)
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        if s["kind"] == "hub" and "/manifests/" in self.path:
            self.send_header("RateLimit-Limit", "100;w=21600")
            self.send_header("RateLimit-Remaining", "76;w=21600")
        length = reply.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = serve


class Server(ThreadingHTTPServer):
    daemon_threads = True


server = Server(("127.0.0.1", PORT), Front)
with open(DIR + "/pid", "w", encoding="utf-8") as f:
    f.write(str(os.getpid()))
server.serve_forever()
