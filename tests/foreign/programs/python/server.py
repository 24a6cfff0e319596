"""A server of Python's http.server, which writes down what it sees."""

import hashlib
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def chunks(self):
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def answer(self):
        chunked = self.headers.get("transfer-encoding") == "chunked"
        if chunked:
            body = b"".join(self.chunks())
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with open(os.environ["SAW"], "a") as saw:
            seen = [f"{self.command} {self.path} {self.request_version}"]
            seen += [f"{name}: {value}" for name, value in self.headers.items()]
            seen += ["", f"{len(body)} bytes {hashlib.sha256(body).hexdigest()}", ""]
            print("\n".join(seen), file=saw)
        if self.path == "/old":
            self.send_response(303)
            self.send_header("Location", "/new")
            self.send_header("Set-Cookie", "seen=yes")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/until-the-end":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"no length")
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("X-Path", self.path)
        self.send_header("Content-Length", str(len(body) or 5))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body or b"empty")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer


ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
