import pytest

from service.errors import Corrupt, StorageError
from service.storage import layout, restore
from service.storage.commits import CommitLog
from tests.storage.faults import faulty_store, same, save


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
