"""What gcsfs and s3fs really do when the connection to a real server fails."""

import contextlib
import http.client
import http.server
import socket
import threading
import types
import urllib.parse

import pytest

from service.errors import StorageError
from service.storage import layout, places, restore, urls
from service.storage.commits import CommitLog
from tests.storage.faults import same, save

BUCKETS = ("gs", "s3")


class Wire(http.server.BaseHTTPRequestHandler):
    """Passes requests on to the server's `upstream`, spoiling those whose fault comes due.

    A fault is (method, a part of the path, what happens): "lost" passes the request on
    and hangs up, "cut" sends half of the body, a number is sent as a status at once.
    """

    protocol_version = "HTTP/1.1"

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self._due()
        if isinstance(fault, int):
            code = {403: "AccessDenied", 429: "TooManyRequests", 503: "SlowDown"}[fault]
            return self._answer(fault, [], f"<Error><Code>{code}</Code></Error>".encode())
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=10)
        upstream.request(self.command, self.path, body, dict(self.headers))
        reply = upstream.getresponse()
        content = reply.read()
        upstream.close()
        if fault == "lost":
            return self._hang_up()
        self._answer(reply.status, reply.getheaders(), content, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def _due(self):
        self.server.seen.append((self.command, urllib.parse.unquote(self.path)))
        for fault in self.server.faults:
            if fault[0] == self.command and fault[1] in urllib.parse.unquote(self.path):
                self.server.faults.remove(fault)
                return fault[2]
        return None

    def _answer(self, status, headers, content, cut=False):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length", len(content)) if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
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


@pytest.fixture
def wire(request):
    """Makes a store of a kind whose requests pass through a wire that can fail."""
    servers = []

    def make(kind):
        address = request.getfixturevalue({"gs": "gcs_address", "s3": "s3_address"}[kind])
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Wire)
        server.daemon_threads = True
        server.upstream, server.faults, server.seen = urllib.parse.urlsplit(address).netloc, [], []
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return server, f"http://127.0.0.1:{server.server_address[1]}"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def gcsfs_does_not_wait(monkeypatch):
    import gcsfs.retry

    async def sleep(seconds):
        assert seconds >= 1.0  # what it would have waited before its own second try

    monkeypatch.setattr(gcsfs.retry, "asyncio", types.SimpleNamespace(sleep=sleep))


def wired(kind, wire, make_store, **more):
    server, address = wire(kind)
    if kind == "s3":  # botocore's own waits are real ones
        more["config_kwargs"] = {"retries": {"max_attempts": 1, "mode": "standard"}}
    return server, make_store(kind, address=address, **more)


UPLOAD = {"gs": ("POST", "/upload/"), "s3": ("PUT", "/bucket/")}


@pytest.mark.parametrize("kind", BUCKETS)
def test_a_create_whose_reply_is_lost_is_known_to_be_ours(kind, wire, make_store):
    server, store = wired(kind, wire, make_store)
    server.faults.append((*UPLOAD[kind], "lost"))
    assert store.create("commits/1", b"nonce")
    assert server.faults == [] and store.read("commits/1") == b"nonce"
    server.faults.append((*UPLOAD[kind], "lost"))
    assert not store.create("commits/1", b"another nonce")
    assert server.faults == [] and store.read("commits/1") == b"nonce"


@pytest.mark.parametrize("kind", BUCKETS)
def test_a_body_that_is_cut_short_is_never_taken_for_the_file(kind, wire, make_store):
    server, store = wired(kind, wire, make_store)
    store.write("file", b"0123456789" * 1000)
    server.faults.append(("GET", "file", "cut"))
    assert store.read("file") == b"0123456789" * 1000
    assert server.faults == []
    server.faults.append(("GET", "file", "cut"))
    assert store.read_range("file", 10, 30) == b"0123456789" * 2
    assert server.faults == []


@pytest.mark.parametrize("kind", BUCKETS)
@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_server_is_asked_again(kind, status, wire, make_store):
    server, store = wired(kind, wire, make_store)
    server.faults.append((*UPLOAD[kind], status))
    store.write("file", b"x")
    assert server.faults == [] and store.read("file") == b"x"


@pytest.mark.parametrize("kind", BUCKETS)
def test_a_refusal_is_told_at_once(kind, wire, make_store):
    server, store = wired(kind, wire, make_store)
    server.faults.append((*UPLOAD[kind], 403))
    with pytest.raises(StorageError, match='Could not write "file"'):
        store.write("file", b"x")
    assert len([method for method, _ in server.seen if method == UPLOAD[kind][0]]) == 1


@pytest.mark.parametrize("kind", BUCKETS)
def test_a_run_in_a_bucket_needs_no_folders_no_renames_and_no_listing_to_save(kind, wire, make_store):
    server, store = wired(kind, wire, make_store)
    log = CommitLog.open(store, "a1")
    save(log, 1)
    server.seen.clear()
    save(log, 2)
    assert [method for method, _ in server.seen] == [UPLOAD[kind][0]] * 3  # two workers' files and the entry
    server.seen.clear()
    again = CommitLog(store)
    again.refresh()
    assert same(restore.newest(again).tensors, 2)
    assert {method for method, _ in server.seen} <= {"GET", "HEAD"}


def test_a_file_that_gcsfs_would_send_in_chunks_is_created_once_too(make_store):
    store = make_store("gs")
    data = bytes(51 * 2**20)  # its chunks have 50 MiB
    assert store.create("large", data[:1]) and not store.create("large", data)
    assert store.create("larger", data) and not store.create("larger", data[:1])
    assert store.sizes() == {"large": 1, "larger": len(data)}


def test_a_scheme_that_cannot_create_once_can_be_read_and_not_committed_to(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        archive.writestr("run.json", "{}")
    place = places.Bucket("zip://", {"fo": str(tmp_path / "run.zip")})
    assert "zip" not in urls.CREATES_ONCE and place.read("run.json") == b"{}"
    with pytest.raises(StorageError, match="exactly one of many writers"):
        place.create(layout.commit(1), b"x")
