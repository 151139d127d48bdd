import concurrent.futures
import itertools
import multiprocessing
import os
import pickle
import sys
import threading

import pytest

from service.errors import RunInvalid, StorageAway, StorageError
from service.storage.places import connect
from service.storage.store import Store
from tests.storage.conftest import KINDS
from tests.storage.faults import PATIENT, Clock, Died, Faulty, faulty_store

HOSTILE = ("", ".", "..", "../a", "a/../b", "/etc/passwd", "a//b", "a/", "/", "a\0b", "a\\b", "./a", "gs://b/c", "c:/a")


def test_what_is_written_is_read(store):
    for data in (b"", b"one", b"another, and longer", bytes(range(256)) * 1000):
        store.write("folder/file", data)
        assert store.read("folder/file") == data
        assert store.size("folder/file") == len(data)
    assert store.read_range("folder/file", 254, 258) == b"\xfe\xff\x00\x01"
    assert store.read_range("folder/file", 7, 7) == b""


def test_a_missing_file_is_not_found(store):
    store.write("folder/file", b"x")
    for path in ("missing", "folder", "folder/file/below"):
        with pytest.raises(FileNotFoundError):
            store.read(path)
        with pytest.raises(FileNotFoundError):
            store.size(path)
        assert not store.exists(path)
    assert store.exists("folder/file")


def test_deleting_is_once_and_for_all(store):
    store.write("file", b"x")
    for _ in range(2):
        store.delete("file")
        assert not store.exists("file")


def test_create_makes_a_file_only_once(store):
    assert store.create("commits/1", b"first")
    assert not store.create("commits/1", b"other")
    assert store.read("commits/1") == b"first"


def test_create_of_our_own_bytes_is_our_success(store):
    assert store.create("file", b"nonce 1")
    assert store.create("file", b"nonce 1")


def test_a_listing_is_sorted_and_holds_only_the_folder(store):
    assert store.list() == store.list("commits") == []
    for path in ("commits/2", "commits/10", "commits/1/deep", "commits2/1", "run.json"):
        store.write(path, path.encode())
    assert store.list("commits") == ["commits/1/deep", "commits/10", "commits/2"]
    assert store.sizes() == {path: len(path) for path in store.list()}
    assert store.list() == ["commits/1/deep", "commits/10", "commits/2", "commits2/1", "run.json"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_listing_sees_what_another_client_wrote_since_the_last_one(kind, make_store):
    reader = make_store(kind)
    options = {**reader._options, "skip_instance_cache": True} if kind in ("gs", "s3") else {}
    writer = Store(reader.url, **options)
    for number in range(3):
        assert not reader.exists(f"commits/{number}")
        writer.write(f"commits/{number}", b"x")
        assert reader.list("commits") == [f"commits/{n}" for n in range(number + 1)]
        assert reader.exists(f"commits/{number}")


@pytest.mark.parametrize("path", HOSTILE)
def test_no_path_leaves_the_store(path, tmp_path):
    (tmp_path / "a").write_text("outside")
    store = Store(str(tmp_path / "run"))
    for call in (store.read, store.size, store.exists, store.delete, store.url_of):
        with pytest.raises(StorageError, match="no path inside a store"):
            call(path)
    for call in (store.write, store.create):
        with pytest.raises(StorageError, match="no path inside a store"):
            call(path, b"x")
    assert os.listdir(tmp_path) == ["a"]


def _create_all(store, worker, barrier):
    barrier.wait()
    return [store.create(f"commits/{number}", f"{worker}".encode()) for number in range(12)]


def _run_in_process(store, worker, barrier, queue):
    queue.put((worker, _create_all(store, worker, barrier)))


def _check_one_winner(store, wins):
    for number in range(12):
        (winner,) = [worker for worker, won in wins.items() if won[number]]
        assert store.read(f"commits/{number}") == f"{winner}".encode()


@pytest.fixture
def restless_threads():
    """Lets Python change between threads after nearly every instruction."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_of_many_threads_that_create_a_file_one_wins(store, restless_threads):
    barrier = threading.Barrier(6)
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        futures = {worker: threads.submit(_create_all, store, worker, barrier) for worker in range(6)}
    _check_one_winner(store, {worker: future.result() for worker, future in futures.items()})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "memory"])
def test_of_many_processes_that_create_a_file_one_wins(kind, make_store):
    store = make_store(kind)
    assert store.list() == []  # connected, so that the children inherit a client they must not use
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    children = [context.Process(target=_run_in_process, args=(store, worker, barrier, queue)) for worker in range(3)]
    for child in children:
        child.start()
    wins = dict(queue.get(timeout=60) for _ in children)
    for child in children:
        child.join()
    _check_one_winner(store, wins)


def test_a_reader_sees_the_old_file_or_the_new_one(make_store):
    store = make_store("folder")
    store.write("file", b"0" * 100_000)
    seen = set()
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        writing = threads.submit(lambda: [store.write("file", str(n % 10).encode() * 100_000) for n in range(50)])
        while not writing.done():
            data = store.read("file")
            assert data == data[:1] * 100_000
            seen.add(data[:1])
    assert len(seen) > 1


@pytest.mark.parametrize(("action", "appears"), [("write", "replace"), ("create", "link")])
def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_call_returns(action, appears, make_store, monkeypatch):
    store, calls = make_store("folder"), []
    store.write("folder/other", b"x")  # so that the folder is there

    def recording(name):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args: (calls.append(name), real(*args))[1])

    for name in ("fsync", appears):
        recording(name)
    getattr(store, action)("folder/file", b"x")
    assert calls == ["fsync", appears, "fsync"]


@pytest.mark.parametrize("action", ["write", "create"])
def test_a_write_that_dies_leaves_the_old_file_and_is_swept_later(action, make_store, monkeypatch):
    store = make_store("folder")
    store.write("old", b"old")

    def die(*args):
        raise Died

    with monkeypatch.context() as patch, pytest.raises(Died):
        for name in ("replace", "link", "remove"):  # a killed process does not clean up either
            patch.setattr(os, name, die)
        getattr(store, action)("old" if action == "write" else "new", b"half")
    assert store.list() == ["old"] and store.read("old") == b"old"
    store.remove_leftovers(older_than_seconds=3600.0)
    assert len(os.listdir(store.url)) == 2
    store.remove_leftovers(older_than_seconds=-1.0)
    assert os.listdir(store.url) == ["old"]


def test_a_folder_without_hard_links_says_what_to_use_instead(make_store, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match=r"without hard links.*Use another folder"):
        make_store("folder").create("file", b"x")


@pytest.mark.parametrize("action", ["read", "read_range", "write", "create", "size", "sizes", "delete"])
@pytest.mark.parametrize("way", ["before", "after"])
def test_a_lost_call_or_reply_is_not_noticed(action, way, memory):
    memory.write("there", b"0123")
    store, place = faulty_store(memory.url, at=1, way=way)
    call = {
        "read": lambda: store.read("there") == b"0123",
        "read_range": lambda: store.read_range("there", 1, 3) == b"12",
        "write": lambda: store.write("there", b"new") or store.read("there") == b"new",
        "create": lambda: store.create("new", b"nonce"),
        "size": lambda: store.size("there") == 4,
        "sizes": lambda: store.list() == ["there"],
        "delete": lambda: store.delete("there") or store.list() == [],
    }[action]
    assert call()
    assert [name for name, _ in place.calls][:2] == [action, action]


@pytest.mark.parametrize(
    "error",
    [PermissionError("no"), OSError(28, "No space left on device"), ValueError("Bad Request"), OSError("Forbidden: b/o")],
    ids=repr,
)
def test_an_error_that_stays_is_told_at_once(error, memory):
    clock, calls = Clock(), itertools.count(1)

    class Refusing(Faulty):
        def read(self, path):
            next(calls)
            raise error

    store = Store(memory.url, connect=lambda url, options: Refusing(None), secret_key="CANARY")
    with pytest.raises(StorageError, match=f'Could not read "file" in {memory.url}: {type(error).__name__}') as told:
        store.read("file")
    assert next(calls) == 2 and not clock.sleeps
    assert "CANARY" not in f"{told.value} {store!r}"


def test_a_store_that_is_down_is_given_up_at_the_deadline(memory):
    store, place = faulty_store(memory.url, at=1, way="down")
    began = PATIENT.clock()
    with pytest.raises(StorageError, match="ConnectionResetError: lost"):
        store.read("file")
    waited = PATIENT.clock() - began
    # The next wait, of at most longest_seconds, would have passed the deadline.
    assert PATIENT.deadline_seconds - PATIENT.longest_seconds <= waited <= PATIENT.deadline_seconds
    assert len(place.calls) > 5


def test_a_store_can_be_pickled(make_store):
    store = make_store("folder", retry=None)
    store.write("file", b"x")
    assert pickle.loads(pickle.dumps(store)).read("file") == b"x"


def test_a_range_that_the_file_does_not_have_is_an_error(store):
    store.write("file", b"0123")
    for begin, end in ((2, 6), (6, 9)):
        with pytest.raises(StorageError):
            store.read_range("file", begin, end)


def test_check_passes_where_a_run_can_be_kept(store):
    store.check()
    assert store.list() == []


def test_check_refuses_a_place_where_two_can_create_a_file(memory):
    class Careless(Faulty):
        def create(self, path, data):
            self.place.write(path, data)

    careless = Store(memory.url, connect=lambda url, options: Careless(memory._here()))
    with pytest.raises(StorageError, match="lets two writers create the same file"):
        careless.check()
    assert memory.list() == []


@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_check_names_a_bucket_that_is_not_there(kind, make_store):
    store = make_store(kind)
    with pytest.raises(StorageError, match=r"Create the bucket first|NoSuchBucket|bucket does not exist"):
        Store(store.url.replace("bucket", "no-bucket"), retry=PATIENT, **store._options).check()


def test_a_plain_path_is_absolute_and_a_url_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Store("runs/vae").url == Store("file://runs/vae/").url == str(tmp_path / "runs" / "vae")
    assert Store("memory://a/").url_of("b/c") == "memory://a/b/c"


def test_an_unknown_storage_is_refused_by_name():
    with pytest.raises(RunInvalid, match=r'there is no storage "gss://"\. Did you mean "gs"\?'):
        Store("gss://bucket/runs")


def test_a_storage_that_is_away_is_told_from_one_that_refuses_also_where_it_was_pickled(tmp_path):
    for error, kind in ((ConnectionResetError("lost"), StorageAway), (PermissionError("no"), StorageError)):
        store, place = faulty_store(str(tmp_path / "run"), 1, "down")
        place.error = error
        with pytest.raises(StorageError, match=f'Could not write "file" in .*{type(error).__name__}') as caught:
            store.write("file", b"x")
        again = pickle.loads(pickle.dumps(caught.value))
        assert type(again) is type(caught.value) is kind and str(again) == str(caught.value)


def test_a_call_that_is_being_tried_again_is_known_by_its_trouble(tmp_path):
    store, _ = faulty_store(str(tmp_path / "run"), 1)
    clock, told = Clock(), []

    def sleep(seconds):
        told.append(store.trouble)
        clock.sleep(seconds)

    store._retry = type(PATIENT)(clock=clock, sleep=sleep)
    store.write("file", b"x")
    assert told == [f'Could not write "file" in {tmp_path}/run: ConnectionResetError: lost'] and store.trouble == ""


def test_a_hasty_store_gives_up_early_and_is_the_same_otherwise(tmp_path):
    clock = Clock()
    place = Faulty(connect(str(tmp_path), {}), 1, "down")
    store = Store(str(tmp_path), retry=type(PATIENT)(clock=clock, sleep=clock.sleep), connect=lambda url, options: place)
    with pytest.raises(StorageAway):
        store.hasty(3.0).write("file", b"x")
    assert clock.now <= 3.0
    with pytest.raises(StorageAway):
        store.write("file", b"x")
    assert clock.now > 100.0


def test_what_is_added_to_a_file_is_there_whole_or_not_at_all(tmp_path):
    store = Store(str(tmp_path))
    store.append("file", 0, b"one")
    store.append("file", 3, b"two")
    store.append("file", 3, b"three")
    assert store.read("file") == b"onethree"
