"""Every storage call of opening, restoring, saving, committing and deleting fails once, in every way there is."""

import collections
import errno
import functools
import os
import threading
import time
import types

import pytest

from service.errors import StorageError, Superseded
from service.storage import layout, places, receipts, restore, retention, shards
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests.storage.faults import PATIENT, Died, Faulty, same, save


class Busy(OSError):
    """A server's 503."""

    status = 503


class Once(Faulty):
    """A place whose `at`-th call fails in one more way, and only that one.

    "busy": a 503. "denied": no permission, which stays an error. "stale N": a listing
    lacks the newest N entries of the log and all files of tensors.
    """

    WAYS = ("busy", "denied", "stale 1", "stale 2", "stale 9")

    def __getattr__(self, name):
        action = getattr(self.place, name)

        def call(*args):
            with self.lock:
                self.calls.append((name, args[0]))
                is_it = len(self.calls) == self.at
            if not is_it:
                return action(*args)
            if self.way == "busy":
                raise Busy("SlowDown")
            if self.way == "denied":
                raise PermissionError("denied")
            found = action(*args)
            if name == "sizes":
                entries = sorted(path for path in found if layout.number_of(path))
                lacks = {*entries[-int(self.way.split()[1]) :], *(path for path in found if layout.attempt_of(path))}
                found = {path: size for path, size in found.items() if path not in lacks}
            return found

        return call


class System:
    """A folder whose `at`-th call of the operating system fails in one way.

    "dies": the process ends before it. "dies after": behind it. "io": an error of the disk,
    once. "full": no space is left, from then on. "torn": half of the bytes are in the file,
    and the process ends.
    """

    WAYS = ("dies", "dies after", "io", "full", "torn")
    NAMES = ("fsync", "link", "replace", "remove", "makedirs", "open", "lstat", "walk")

    def __init__(self, monkeypatch, place, at=0, way=""):
        self.place, self.at, self.way, self.calls = place, at, way, []
        self.lock, self.active = threading.Lock(), threading.local()
        real = {**vars(os), "fsync": lambda descriptor: None}  # no power cut is waited for
        mine = {name: functools.partial(self._call, name, real[name]) for name in self.NAMES}
        monkeypatch.setattr(places, "os", types.SimpleNamespace(**{**vars(os), **mine}))
        monkeypatch.setattr(places, "open", functools.partial(self._call, "open", open), raising=False)

    def __getattr__(self, name):
        action = getattr(self.place, name)

        def call(*args):
            self.active.now = True
            try:
                return action(*args)
            finally:
                self.active.now = False

        return call

    def _call(self, name, action, *args, **kwargs):
        if not getattr(self.active, "now", False):
            return action(*args, **kwargs)
        makes = args[1:] == ("xb",)
        with self.lock:
            self.calls.append((name, "a new file" if makes else args[0]))
            number = len(self.calls)
        if not self.at or number < self.at or (number > self.at and self.way == "io"):
            return action(*args, **kwargs)
        if self.way == "full":
            if makes or name in ("link", "makedirs"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return action(*args, **kwargs)
        if self.way == "io":
            raise OSError(errno.EIO, "Input/output error")
        if number == self.at and self.way == "dies after":
            action(*args, **kwargs)
        if number == self.at and self.way == "torn" and makes:
            return Torn(action(*args, **kwargs))
        raise Died


class Torn:
    """A file of which half of the bytes are there when the process ends."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def writelines(self, parts):
        data = b"".join(parts)
        self.file.write(data[: len(data) // 2])
        raise Died


def three_checkpoints(store):
    log, previous = CommitLog.open(store, "a1"), ()
    for step in (1, 2, 3):
        previous = save(log, step, previous).body["shards"]


def live(store, opened):
    """An attempt: takes over, restores, saves the next step, keeps one, sweeps; its log comes into `opened`.

    Returns the step restored.
    """
    log = CommitLog.open(store)
    opened.append(log)
    found = restore.newest(log)
    assert same(found.tensors, found.entry.body["step"])
    save(log, found.entry.body["step"] + 1, found.entry.body["shards"])
    retention.delete(log, retention.surplus(log, keep=1))
    retention.sweep(log)
    return found.entry.body["step"]


def newest(store):
    """Returns the step of the newest checkpoint, once every one that counts was found whole."""
    log = CommitLog(store)
    log.refresh()
    for entry in log.checkpoints():
        assert same(shards.read_tensors(store, entry.body["shards"]), entry.body["step"])
    found = restore.newest(log)
    assert found.skipped.keys() <= log.damaged.keys()
    return found.entry.body["step"]


def fill(store, files):
    for path in store.list():
        store.delete(path)
    for path, data in files.items():
        store.write(path, data)


MUST_SURVIVE = ("before", "after", "busy", "io", "stale")


def check_point(faulty, healthy, way, heal):
    """Lives through one fault, and raises unless a committed state is restorable, and the run goes on, whatever it was."""
    opened = []
    try:
        live(faulty, opened)
        survived = True
    except Superseded:
        raise
    except (Died, StorageError) as error:
        survived, died = False, isinstance(error, Died)
    assert survived or not way.startswith(MUST_SURVIVE), "a fault that passes was told"
    step = newest(healthy)
    assert step == 4 if survived else step in (3, 4)
    heal()
    if opened and not survived and not died:  # the same attempt goes on as soon as the storage does
        save(opened[0], 7)
        assert newest(healthy) == 7
        step = 7
    log = []
    assert live(healthy, log) == step
    assert newest(healthy) == step + 1
    named = {file for entry in log[0].checkpoints() for file in receipts.files(entry.body["shards"])}
    assert {*healthy.list(layout.SHARDS)} == named, "files are left that nothing names"


def points(healthy, make_place, ways):
    """Lets each call fail in each of the ways; returns how many did, by way.

    Args:
        healthy: an empty store.
        make_place: makes a place there of which the call of a number fails in a way.
        ways: each with whether a call, (name, path), can fail so.
    """
    three_checkpoints(healthy)
    files, counts = {path: healthy.read(path) for path in healthy.list()}, collections.Counter()

    def attempt(at, way):
        fill(healthy, files)
        place = make_place(at, way)
        faulty = Store(healthy.url, retry=PATIENT, connect=lambda url, options: place)
        check_point(faulty, healthy, way, lambda: setattr(place, "at", 0))
        return place.calls

    calls = attempt(0, "")
    for way, can in ways.items():
        for at, (name, path) in enumerate(calls, 1):
            if can(name, path):
                try:
                    attempt(at, way)
                except Exception as error:
                    raise AssertionError(f"{way} at call {at}, {name} {path}: {error!r}") from error
                counts[way] += 1
    return counts


ANY = lambda name, path: True  # noqa: E731
OF_A_PLACE = {
    **dict.fromkeys(("before", "after", "busy", "denied", "down", "dies", "dies after"), ANY),
    "torn": lambda name, path: name in ("write", "create"),
    **dict.fromkeys(("stale 1", "stale 2", "stale 9"), lambda name, path: name == "sizes"),
}
OF_THE_SYSTEM = {
    **dict.fromkeys(("dies", "dies after", "io", "full"), ANY),
    "torn": lambda name, path: path == "a new file",
}


def tell(what, counts, began):
    print(
        f"{counts.total()} fault points of {what} ({', '.join(f'{way} {n}' for way, n in counts.items())}): after "
        f"{counts.total()} a committed state was restored and the run went on, 0 that pass were told, "
        f"{time.perf_counter() - began:.0f} s"
    )


def place_points(healthy):
    def make_place(at, way):
        return (Once if way in Once.WAYS else Faulty)(places.connect(healthy.url, healthy._options), at, way)

    return points(healthy, make_place, OF_A_PLACE)


def test_after_a_fault_at_any_call_of_a_place_a_committed_state_is_restored(memory):
    began = time.perf_counter()
    counts = place_points(memory)
    tell("memory", counts, began)
    assert counts.keys() == OF_A_PLACE.keys() and min(counts.values()) >= 2


def system_points(healthy, monkeypatch, ways):
    return points(healthy, lambda at, way: System(monkeypatch, places.Folder(healthy.url), at, way), ways)


def test_after_a_death_at_any_call_of_the_system_a_committed_state_is_restored(make_store, monkeypatch):
    began = time.perf_counter()
    counts = system_points(make_store("folder"), monkeypatch, {"dies": OF_THE_SYSTEM["dies"], "torn": OF_THE_SYSTEM["torn"]})
    tell("a folder's system", counts, began)
    assert min(counts.values()) >= 3


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_after_a_fault_at_any_call_of_the_system_a_committed_state_is_restored(make_store, monkeypatch):
    began = time.perf_counter()
    counts = system_points(make_store("folder"), monkeypatch, OF_THE_SYSTEM)
    tell("a folder's system", counts, began)
    assert counts.keys() == OF_THE_SYSTEM.keys()


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["folder", "gs"])
def test_after_a_fault_at_any_call_of_a_real_place_a_committed_state_is_restored(kind, make_store):
    began = time.perf_counter()
    tell(kind, place_points(make_store(kind)), began)
