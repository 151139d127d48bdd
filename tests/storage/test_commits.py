import concurrent.futures
import threading

import pytest

from service.errors import StorageError, Superseded
from service.storage import entries, layout
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests.storage.faults import PATIENT, Faulty, Stale, faulty_store, save

EMPTY = {"stage": 1, "step": 0, "epoch": 0, "shards": [], "state": {}}


def numbers(found):
    return [entry.number for entry in found]


def reader(store):
    log = CommitLog(store)
    log.refresh()
    return log


def test_what_is_appended_is_read_by_all(store):
    log = CommitLog.open(store, "a1", {"host": "h"})
    log.append("checkpoint", {**EMPTY, "step": 5, "state": {"best": float("inf"), "wait": 2}})
    log.append("stage", {"stage": 1, "result": {"loss": 0.25}})
    log.append("finished", {})
    for found in (log, reader(store)):
        assert [(entry.number, entry.kind) for entry in found.entries()] == [
            (1, "opened"),
            (2, "checkpoint"),
            (3, "stage"),
            (4, "finished"),
        ]
        assert found.checkpoints()[0].body == {**EMPTY, "step": 5, "state": {"best": float("inf"), "wait": 2}}
        assert found.results() == {1: {"loss": 0.25}}
        assert found.damaged == {}
    assert store.list() == [layout.commit(number) for number in (1, 2, 3, 4)]


def test_a_run_without_a_log_has_no_entries(store):
    assert reader(store).entries() == reader(store).checkpoints() == []


def test_the_newest_checkpoints_come_first_without_the_deleted_ones(memory):
    log = CommitLog.open(memory)
    for stage in (1, 1, 2):
        log.append("checkpoint", {**EMPTY, "stage": stage})
    log.append("deleted", {"numbers": [2], "files": []})
    assert numbers(log.checkpoints()) == numbers(reader(memory).checkpoints()) == [4, 3]
    assert numbers(log.checkpoints(stage=1)) == [3]


def test_an_older_attempt_never_commits_again(store):
    old = CommitLog.open(store, "old")
    old.append("checkpoint", EMPTY)
    new = CommitLog.open(store, "new")
    for _ in range(3):
        with pytest.raises(Superseded, match=r'Attempt "old" .* was superseded: attempt "new" wrote commits/00000003.json'):
            old.append("checkpoint", EMPTY)
    new.append("checkpoint", EMPTY)
    assert [entry.attempt for entry in reader(store).entries()] == ["old", "old", "new", "new"]


def test_an_older_attempt_that_has_read_the_newer_ones_entries_stays_superseded(memory):
    old, new = CommitLog.open(memory, "old"), CommitLog.open(memory, "new")
    new.append("checkpoint", EMPTY)
    old.refresh()
    assert numbers(old.checkpoints()) == [3]
    with pytest.raises(Superseded):
        old.append("checkpoint", EMPTY)
    assert numbers(reader(memory).entries()) == [1, 2, 3]


def test_of_attempts_that_open_at_once_only_the_last_can_append(store):
    barrier = threading.Barrier(5)

    def open_and_append(number):
        barrier.wait()
        log = CommitLog.open(store, f"a{number}")
        barrier.wait()
        try:
            return log.append("finished", {}).attempt
        except Superseded:
            return None

    with concurrent.futures.ThreadPoolExecutor(5) as threads:
        winners = {*threads.map(open_and_append, range(5))} - {None}
    found = reader(store)
    opened = [entry.attempt for entry in found.entries()[:5]]
    assert sorted(opened) == [f"a{number}" for number in range(5)]
    assert winners == {opened[-1]} and found.entries()[5].attempt == opened[-1]
    assert found.damaged == {}


def test_threads_share_a_writer(memory):
    log = CommitLog.open(memory)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        made = [*threads.map(lambda step: log.append("checkpoint", {**EMPTY, "step": step}).number, range(20))]
    assert sorted(made) == [*range(2, 22)]
    assert reader(memory).damaged == {}


def test_an_attempt_has_a_name_of_its_own(memory):
    CommitLog.open(memory, "a1")
    with pytest.raises(StorageError, match='had an attempt "a1" already'):
        CommitLog.open(memory, "a1")
    for name in ("../x", "a-b", "a" * 41):
        with pytest.raises(ValueError, match="letters and digits"):
            CommitLog.open(memory, name)
    assert len({CommitLog.open(memory).attempt for _ in range(3)}) == 3


def test_an_append_whose_outcome_was_unknown_is_found_by_the_next(memory):
    place = Faulty(memory._here(), way="down")
    log = CommitLog.open(Store(memory.url, retry=PATIENT, connect=lambda url, options: place), "a1")
    place.at = len(place.calls) + 1

    class Arriving(Faulty):  # the request arrives; all replies are lost
        def create(self, path, data):
            self.place.create(path, data)
            raise ConnectionResetError

    place.place, kept = Arriving(place.place), place.place
    place.at = 0
    with pytest.raises(StorageError):
        log.store._retry, patient = type(PATIENT)(deadline_seconds=-1.0), log.store._retry
        log.append("checkpoint", {**EMPTY, "step": 1})
    place.place, log.store._retry = kept, patient
    assert log.append("checkpoint", {**EMPTY, "step": 2}).number == 3
    assert [entry.body["step"] for entry in reader(memory).checkpoints()] == [2, 1]
    assert [entry.body["step"] for entry in log.checkpoints()] == [2, 1]


def test_a_stale_listing_delays_an_opening_but_not_its_order(memory):
    place = Stale(memory._here())
    late = Store(memory.url, retry=PATIENT, connect=lambda url, options: place)
    old = CommitLog.open(memory, "old")
    place.freeze()
    for step in (1, 2):
        old.append("checkpoint", {**EMPTY, "step": step})
    new = CommitLog.open(late, "new")
    assert [entry.number for entry in new.entries()] == [1, 2, 3, 4]
    assert [entry.body["step"] for entry in new.checkpoints()] == [2, 1]
    with pytest.raises(Superseded):
        old.append("finished", {})


def test_a_steady_append_is_one_call(memory):
    store, place = faulty_store(memory.url)
    log = CommitLog.open(store)
    place.calls.clear()
    log.append("checkpoint", EMPTY)
    assert place.calls == [("create", layout.commit(2))]


DAMAGES = {
    "cut": lambda store, path: store.write(path, store.read(path)[:-9]),
    "emptied": lambda store, path: store.write(path, b""),
    "gone": lambda store, path: store.delete(path),
    "flipped": lambda store, path: store.write(path, store.read(path).replace(b'"step":', b'"stop":')),
    "in another's place": lambda store, path: store.write(path, store.read(layout.commit(2))),
    "too large": lambda store, path: store.write(path, b" " * 100_000),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("number", [3, 4])
def test_a_damaged_entry_is_told_and_hides_no_other(number, damage, memory, monkeypatch):
    monkeypatch.setattr(entries, "MOST_BYTES", 99_999)
    log = CommitLog.open(memory, "a1")
    for step in range(1, 5):
        log.append("checkpoint", {**EMPTY, "step": step})  # entries 2 to 5
    damage(memory, layout.commit(number))
    kept = {path: memory.read(path) for path in memory.list()}
    found = reader(memory)
    assert numbers(found.checkpoints()) == [n for n in (5, 4, 3, 2) if n != number]
    assert [*found.damaged] == [number] and layout.commit(number) in found.damaged[number]
    new = CommitLog.open(memory, "a2")
    assert new.append("checkpoint", EMPTY).number == 7
    assert numbers(reader(memory).checkpoints()) == [7, *(n for n in (5, 4, 3, 2) if n != number)]
    assert kept.items() <= {path: memory.read(path) for path in memory.list()}.items()


def test_a_damaged_newest_entry_is_stepped_over(memory):
    log = CommitLog.open(memory, "a1")
    log.append("checkpoint", EMPTY)
    memory.create(layout.commit(3), b"junk")
    assert log.append("checkpoint", EMPTY).number == 4
    assert memory.read(layout.commit(3)) == b"junk"
    assert numbers(reader(memory).checkpoints()) == [4, 2] and [*log.damaged] == [3]
    with pytest.raises(Superseded):  # whoever finds the other's entry at its next number stops
        CommitLog.open(memory, "a2") and log.append("finished", {})


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_whole_entry_of_another_run_does_not_fit_in(number, make_store):
    ours, others = make_store("memory"), make_store("memory")
    for store, best in ((ours, 1), (others, 2)):
        log = CommitLog.open(store, "a1")
        for step in (1, 2, 3):
            log.append("checkpoint", {**EMPTY, "step": step, "state": {"best": best}})
    ours.write(layout.commit(number), others.read(layout.commit(number)))
    found = reader(ours)
    assert [*found.damaged] == [number] and "does not fit its neighbours" in found.damaged[number]
    assert all(entry.body["state"] == {"best": 1} for entry in found.checkpoints())
    CommitLog.open(ours, "a2")
    assert [*reader(ours).damaged] == [number]


def test_files_that_are_no_entries_are_left_alone(memory):
    log = CommitLog.open(memory, "a1")
    for path in (
        "commits/x.json",
        "commits/00000002.json.bak",
        "commits/2.json",
        "commits/00000000.json",
        "commits/a/00000002.json",
    ):
        memory.write(path, b"junk")
    assert log.append("finished", {}).number == 2
    assert numbers(reader(memory).entries()) == [1, 2] and reader(memory).damaged == {}


def test_a_junk_file_far_ahead_does_not_break_the_fence(memory):
    old = CommitLog.open(memory, "old")
    memory.write(layout.commit(500), b"junk")
    new = CommitLog.open(memory, "new")
    with pytest.raises(Superseded):
        old.append("checkpoint", EMPTY)
    new.append("checkpoint", EMPTY)
    assert reader(memory).checkpoints()[0].attempt == "new"


def test_a_long_run_reads_only_what_still_counts(memory):
    log = CommitLog.open(memory, "a1")
    for step in range(100):
        log.append("checkpoint", {**EMPTY, "step": step})
    log.append("deleted", {"numbers": [*range(2, 100)], "files": []})
    log.append("checkpoint", {**EMPTY, "step": 100})
    store, place = faulty_store(memory.url)
    assert numbers(reader(store).checkpoints()) == numbers(log.checkpoints()) == [103, 101, 100]
    # Entries 103 down to 40 are one batch, in which the deletion is found; then entry 1.
    assert [name for name, _ in place.calls] == ["sizes", *["read"] * 65]
    assert reader(memory).damaged == {} and CommitLog.open(memory).append("finished", {}).number == 105


def test_a_deletion_that_does_not_fit_in_deletes_nothing(make_store):
    ours, others = make_store("memory"), make_store("memory")
    for store in (ours, others):
        log = CommitLog.open(store, "a1")
        for step in range(70):
            log.append("checkpoint", {**EMPTY, "step": step, "state": {"run": store.url}})
    log.append("deleted", {"numbers": [*range(2, 70)], "files": []})
    ours.write(layout.commit(72), others.read(layout.commit(72)))
    found = reader(ours)
    assert len(found.checkpoints()) == 70 and [*found.damaged] == [72]


def test_a_checkpoint_cannot_name_a_file_that_was_deleted(memory):
    log = CommitLog.open(memory, "a1")
    first = save(log, 1)
    save(log, 2)
    log.append("deleted", {"numbers": [first.number], "files": [receipt["file"] for receipt in first.body["shards"]]})
    with pytest.raises(StorageError, match=r"which was deleted\. Save it again"):
        save(log, 3, previous=first.body["shards"])
    assert [entry.body["step"] for entry in log.checkpoints()] == [2]
    assert save(log, 3).number == 5


def test_a_reader_that_knows_of_a_later_entry_misses_none_that_a_stale_listing_lacks(memory):
    place = Stale(memory._here())
    log = CommitLog.open(memory)
    save(log, 1)
    place.freeze()
    newest = save(log, 2)
    opened = CommitLog.open(memory)
    stale = Store(memory.url, retry=PATIENT, connect=lambda url, options: place)
    for known, found in ((0, 1), (opened.last, 2)):
        reader = CommitLog(stale, known)
        reader.refresh()
        assert reader.checkpoints()[0].body["step"] == found
    assert reader.checkpoints()[0] == newest
