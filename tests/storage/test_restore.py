import numpy as np
import pytest

from service.errors import Corrupt, StorageError
from service.storage import layout, restore, retention
from service.storage.commits import CommitLog
from tests.storage.faults import Died, Faulty, faulty_store, same, save


def reader(store):
    log = CommitLog(store)
    log.refresh()
    return log


def three_checkpoints(store):
    log = CommitLog.open(store, "a1")
    previous = ()
    for step in (1, 2, 3):
        previous = save(log, step, previous).body["shards"]
    return log


def test_a_run_without_checkpoints_has_none_to_restore(memory):
    CommitLog.open(memory, "a1")
    assert restore.newest(reader(memory)) is None


def test_the_newest_whole_checkpoint_is_restored_and_the_rest_is_told(store):
    log = three_checkpoints(store)
    newest, *_ = log.checkpoints()
    file = next(receipt["file"] for receipt in newest.body["shards"] if "a1" in receipt["file"])
    own = (
        {receipt["file"] for receipt in newest.body["shards"]} - {r["file"] for r in log.checkpoints()[1].body["shards"]}
    ).pop()
    store.write(own, store.read(own)[:-1])
    found = restore.newest(reader(store))
    assert found.entry.body["step"] == 2 and same(found.tensors, 2)
    assert [*found.skipped] == [newest.number] and own in found.skipped[newest.number]
    assert store.exists(own) and store.exists(file)


def test_a_run_without_a_whole_checkpoint_is_told_and_not_begun_anew(memory):
    log = three_checkpoints(memory)
    for path in memory.list(layout.SHARDS):
        memory.write(path, b"junk")
    with pytest.raises(Corrupt, match=r"No checkpoint of .* is whole:\n  2: .*\n  3: .*\n  4: .* has 4 bytes"):
        restore.newest(log)


def test_a_run_whose_entries_are_all_damaged_is_told_and_not_begun_anew(memory):
    log = three_checkpoints(memory)
    log.append("stage", {"stage": 1, "result": {}})
    for number in (2, 3, 4):
        memory.write(layout.commit(number), b"junk")
    with pytest.raises(Corrupt, match=r"No checkpoint of .* is whole:\n  2: .*\n  3: .*\n  4: .*\nPut what is damaged back"):
        restore.newest(reader(memory), 1)
    assert restore.newest(reader(memory), 2) is None  # they are of the stage before
    for path in memory.list(layout.SHARDS):
        memory.delete(path)
    assert restore.newest(reader(memory), 1) is None  # and now there can have been none


def test_a_store_that_is_down_is_no_reason_to_go_back_to_an_older_checkpoint(memory):
    three_checkpoints(memory)
    store, place = faulty_store(memory.url)
    log = reader(store)
    place.at, place.way = len(place.calls) + 1, "down"
    with pytest.raises(StorageError) as told:
        restore.newest(log)
    assert not isinstance(told.value, Corrupt)


def test_random_damage_to_a_run_is_never_silent(memory):
    three_checkpoints(memory)
    kept = {path: memory.read(path) for path in memory.list()}
    paths, generator = [*kept], np.random.default_rng(30)
    needed = {entry.number: {r["file"] for r in entry.body["shards"]} for entry in reader(memory).checkpoints()}
    for _ in range(400):
        path, other = (paths[number] for number in generator.choice(len(paths), 2, replace=False))
        data = bytearray(kept[path])
        way = generator.choice(["flip", "cut", "delete", "swap", "edit"])
        changed = {path}
        if way == "flip":
            data[generator.integers(len(data))] ^= 1 << generator.integers(8)
        elif way == "cut":
            del data[generator.integers(len(data)) :]
        elif way == "swap":
            data, changed = kept[other], {path, other}
            memory.write(other, kept[path])
        elif way == "edit":
            data = data.replace(b'"step":3', b'"step":9').replace(b'"epoch":0', b'"epoch":1')
            data += b" " * (data == kept[path])
        if way == "delete":
            memory.delete(path)
        else:
            memory.write(path, bytes(data))
        _check_damage(memory, changed, needed, way == "delete")
        for name in (path, other):
            memory.write(name, kept[name])


def _check_damage(store, changed, needed, deleted):
    """Each checkpoint that the damage touches is skipped by name, and an untouched one restored."""
    log = reader(store)
    hurt = {number for number, files in needed.items() if files & changed or layout.commit(number) in changed}
    whole = [number for number in needed if number not in hurt]
    if not whole:
        with pytest.raises(Corrupt):
            restore.newest(log)
        return
    found = restore.newest(log)
    assert found.entry.number == whole[0] and same(found.tensors, found.entry.body["step"])
    lost = {number for number in hurt if number > whole[0]}
    if deleted and layout.commit(max(needed)) in changed:
        lost = set()  # a log whose end is gone is a shorter log
    assert set(found.skipped) == lost
    damaged = {layout.number_of(path) for path in changed if path.startswith("commits/")}
    assert set(log.damaged) == (damaged if lost or not deleted or max(needed) not in damaged else set())


def _live(store):
    """A restart: takes over, restores, saves, keeps one, sweeps. Returns the step restored and the log."""
    log = CommitLog.open(store)
    found = restore.newest(log)
    assert same(found.tensors, found.entry.body["step"])
    save(log, found.entry.body["step"] + 1, found.entry.body["shards"])
    retention.delete(log, retention.surplus(log, keep=1))
    retention.sweep(log)
    return found.entry.body["step"], log


def _copy(store, name):
    url = f"memory://{name}"
    copy, _ = faulty_store(url)
    for path in copy.list():
        copy.delete(path)
    for path in store.list():
        copy.write(path, store.read(path))
    return url


@pytest.mark.parametrize("way", Faulty.WAYS)
def test_after_a_fault_at_any_call_a_committed_state_is_restored(way, memory):
    three_checkpoints(memory)
    store, place = faulty_store(_copy(memory, "faults"))
    assert _live(store)[0] == 3
    total = len(place.calls)
    assert total >= 20
    for at in range(1, total + 1):
        url = _copy(memory, "faults")
        store, place = faulty_store(url, at, way)
        try:
            _live(store)
            survived = True
        except (Died, StorageError):
            survived = False
        assert survived or way not in ("before", "after"), f"a lost call or reply, {place.calls[at - 1]}, was not tried again"
        committed = _committed(url)
        assert committed or not survived
        step, log = _live(faulty_store(url)[0])
        assert step == (4 if committed else 3)
        left, named = {*log.store.list(layout.SHARDS)}, {r["file"] for e in log.checkpoints() for r in e.body["shards"]}
        assert left == named, f"after {way} at {place.calls[at - 1]} files are left that nothing names"


def _committed(url):
    """Whether the checkpoint of step 4 counts, as a fresh reader of the log sees it."""
    return any(entry.body["step"] == 4 for entry in reader(faulty_store(url)[0]).checkpoints())


def test_what_a_finished_stage_left_and_what_training_goes_on_from_are_told_apart(memory):
    log = three_checkpoints(memory)
    newest, *_ = log.checkpoints()
    left = log.append("checkpoint", {**log.checkpoints()[1].body, "final": True})
    assert restore.newest(log).entry == restore.newest(log, final=True).entry == left
    assert restore.newest(log, final=False).entry == newest


def test_one_checkpoint_is_restored_by_its_number_or_told_to_be_damaged_or_missing(memory):
    log = three_checkpoints(memory)
    assert same(restore.one(log, 3).tensors, 2)
    memory.write(log.checkpoints()[1].body["shards"][-1]["file"], b"junk")
    with pytest.raises(Corrupt, match="has 4 bytes"):
        restore.one(log, 3)
    with pytest.raises(Corrupt, match="There is no checkpoint 9"):
        restore.one(log, 9)
