"""A wire to a real bucket server that spoils some of the requests, named ones or by a seed."""

import collections
import contextlib
import http.client
import http.server
import random
import re
import socket
import threading
import time
import urllib.parse

LATE_SECONDS = 0.5


class Wire(http.server.BaseHTTPRequestHandler):
    """Passes requests on to the server's `upstream`, spoiling those whose fault comes due.

    A fault is (method, a part of the path, what happens): "reset" hangs up at once, "late" some time
    later, "lost" passes the request on and hangs up, "cut" sends half of the body, "old" repeats what the
    same listing was earlier, a number is sent as a status at once. The server's `weather`, called
    with the method and the path, draws others.
    """

    protocol_version = "HTTP/1.1"

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self._due()
        if isinstance(fault, int):
            code = {403: "AccessDenied", 429: "TooManyRequests", 503: "SlowDown"}[fault]
            return self._answer(fault, [], f"<Error><Code>{code}</Code></Error>".encode())
        if fault in ("reset", "late"):
            time.sleep(LATE_SECONDS if fault == "late" else 0)
            return self._hang_up()
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=10)
        upstream.request(self.command, self.path, body, dict(self.headers))
        reply = upstream.getresponse()
        content = reply.read()
        upstream.close()
        if fault == "lost":
            return self._hang_up()
        if is_listing(self.command, self.path) and reply.status == 200:
            first = self.server.listings.setdefault(self.path, content)
            content = first if fault == "old" else content
        self._answer(reply.status, reply.getheaders(), content, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def _due(self):
        self.server.seen.append((self.command, urllib.parse.unquote(self.path)))
        for fault in self.server.faults:
            if fault[0] == self.command and fault[1] in urllib.parse.unquote(self.path):
                self.server.faults.remove(fault)
                return fault[2]
        return self.server.weather(self.command, self.path)

    def _answer(self, status, headers, content, cut=False):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length", len(content)) if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        with contextlib.suppress(ConnectionError):  # whoever asked has hung up
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._hang_up()

    def _hang_up(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args):
        pass


def is_listing(command, path):
    """Whether a request asks which objects there are, of fake-gcs-server."""
    return command == "GET" and re.fullmatch(r"/storage/v1/b/[^/]+/o/?", urllib.parse.urlsplit(path).path) is not None


class Weather:
    """Fails a share of the requests, as a seed says: the k-th one, and the k-th listing, always in the same way."""

    def __init__(self, seed, share=0.3):
        self.share = share
        self.seen = collections.Counter()
        self._draws = {is_list: random.Random(f"{seed} {is_list}") for is_list in (False, True)}
        self._lock = threading.Lock()

    def __call__(self, command, path):
        is_list = is_listing(command, path)
        kinds = [429, 503, "reset", "lost", "cut", "late"]
        with self._lock:
            draw = self._draws[is_list]
            fails, kind = draw.random() < self.share, draw.choice([*kinds, *["old"] * len(kinds)] if is_list else kinds)
            self.seen[kind if fails else "well"] += 1
        return kind if fails else None


@contextlib.contextmanager
def wired_to(address, weather=lambda command, path: None):
    """Runs a wire to a server, and gives it and its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Wire)
    server.daemon_threads = True
    server.upstream, server.faults, server.seen = urllib.parse.urlsplit(address).netloc, [], []
    server.listings, server.weather = {}, weather
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
