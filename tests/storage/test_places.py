"""What gcsfs and s3fs really do when the connection to a real server fails."""

import contextlib

import pytest

from service.errors import StorageAway, StorageError
from service.storage import layout, places, restore, urls
from service.storage.commits import CommitLog
from service.storage.retries import Policy
from tests.storage.faults import same, save
from tests.storage.wire import wired_to

BUCKETS = ("gs", "s3")


@pytest.fixture
def wire(request):
    """Makes a store of a kind whose requests pass through a wire that can fail."""
    with contextlib.ExitStack() as wires:

        def make(kind):
            address = request.getfixturevalue({"gs": "gcs_address", "s3": "s3_address"}[kind])
            return wires.enter_context(wired_to(address))

        yield make


def wired(kind, wire, make_store, **more):
    server, address = wire(kind)
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


@pytest.mark.parametrize("kind", BUCKETS)
def test_a_client_tries_once_and_leaves_trying_again_to_the_store(kind, wire, make_store):
    server, store = wired(kind, wire, make_store, retry=Policy(deadline_seconds=-1.0))
    server.weather = lambda command, path: 503
    with pytest.raises(StorageAway, match='Could not read "file" in'):
        store.read("file")
    assert len(server.seen) == 1
