import pytest

from service.errors import Superseded
from service.storage import layout, receipts, restore, retention, shards
from service.storage.commits import CommitLog
from service.storage.pieces import Piece
from tests.storage.faults import Died, faulty_store, same, save, tensors_at


def reader(store):
    log = CommitLog(store)
    log.refresh()
    return log


def files_of(*found):
    return {file for entry in found for file in receipts.files(entry.body["shards"])}


def saves(log, steps):
    previous, made = (), []
    for step in steps:
        made.append(save(log, step, previous))
        previous = made[-1].body["shards"]
    return made


def test_only_files_that_no_checkpoint_names_go(store):
    log = CommitLog.open(store, "a1")
    first, second, third = saves(log, (1, 2, 3))
    assert files_of(first) & files_of(third)  # the frozen table is still in its first file
    removed = retention.delete(log, retention.surplus(log, keep=1))
    assert removed == sorted(files_of(first, second) - files_of(third))
    assert {*store.list(layout.SHARDS)} == files_of(third)
    found = restore.newest(reader(store))
    assert found.entry == third and same(found.tensors, 3) and found.skipped == {}
    assert log.checkpoints() == reader(store).checkpoints() == [third]


def test_a_pinned_checkpoint_stays(memory):
    log = CommitLog.open(memory, "a1")
    first, second, third, fourth = saves(log, (1, 2, 3, 4))
    assert retention.surplus(log, keep=2, pinned=[first.number]) == [second.number]
    retention.delete(log, [second.number])
    for entry, step in ((first, 1), (third, 3), (fourth, 4)):
        assert same(shards.read_tensors(memory, entry.body["shards"]), step)


def test_the_last_checkpoint_cannot_be_deleted(memory):
    log = CommitLog.open(memory, "a1")
    made = saves(log, (1, 2))
    with pytest.raises(ValueError, match="would leave no checkpoint"):
        retention.delete(log, [entry.number for entry in made])
    with pytest.raises(ValueError, match="There is no checkpoint 1 to delete"):
        retention.delete(log, [1])
    assert retention.delete(log, []) == []
    assert log.checkpoints() == [*reversed(made)]


def test_a_deletion_that_dies_is_finished_by_a_sweep(memory):
    log = CommitLog.open(memory, "a1")
    saves(log, (1, 2, 3))
    dying, place = faulty_store(memory.url, at=2, way="dies")  # after the tombstone
    log.store = dying
    with pytest.raises(Died):
        retention.delete(log, retention.surplus(log, keep=1))
    assert [name for name, _ in place.calls] == ["create", "delete"]
    after = CommitLog.open(memory, "a2")
    assert same(restore.newest(after).tensors, 3)
    assert retention.sweep(after) and {*memory.list(layout.SHARDS)} == files_of(*after.checkpoints())


def test_a_sweep_removes_what_no_entry_names_of_older_attempts_only(memory):
    old = CommitLog.open(memory, "old")
    saves(old, (1,))
    orphan = layout.shard("old", "1" * 32, "0" * 64)
    in_flight, unknown = layout.shard("new", "1" * 32, "0" * 64), layout.shard("later", "1" * 32, "0" * 64)
    for path in (orphan, in_flight, unknown, "shards/notes.txt"):
        memory.write(path, b"x")
    assert retention.sweep(old) == []
    new = CommitLog.open(memory, "new")
    assert retention.sweep(new) == [orphan]
    assert {in_flight, unknown, "shards/notes.txt"} | files_of(*new.checkpoints()) == {*memory.list(layout.SHARDS)}


def test_nothing_goes_while_a_damaged_entry_may_need_it(memory):
    log = CommitLog.open(memory, "a1")
    made = saves(log, (1, 2, 3))
    entry = memory.read(layout.commit(made[1].number))
    memory.write(layout.commit(made[1].number), entry[:-1])
    after = CommitLog.open(memory, "a2")
    assert retention.delete(after, [made[0].number]) == [] and retention.sweep(after) == []
    memory.write(layout.commit(made[1].number), entry)  # it is mended
    assert same(shards.read_tensors(memory, reader(memory).checkpoints()[1].body["shards"]), 2)
    memory.write(layout.commit(made[1].number), entry[:-1])
    # With newer ones than the damaged entry, it is given up like any old checkpoint.
    last = save(after, 4)
    assert retention.surplus(after, keep=1) == [made[1].number, made[2].number]
    retention.delete(after, retention.surplus(after, keep=1))
    retention.sweep(after)
    assert files_of(last) <= {*memory.list(layout.SHARDS)} and not files_of(made[0], made[2]) & {*memory.list(layout.SHARDS)}


def test_a_superseded_attempt_removes_nothing_that_counts(memory):
    oldest = CommitLog.open(memory, "oldest")
    saves(oldest, (1, 2))
    zombie = CommitLog.open(memory, "zombie")
    saves(zombie, (3,))
    new = CommitLog.open(memory, "new")
    made = save(new, 4, previous=new.checkpoints()[0].body["shards"])
    before = {path: memory.read(path) for path in memory.list()}
    for attempt in (oldest, zombie):
        with pytest.raises(Superseded):
            retention.delete(attempt, [2])
        with pytest.raises(Superseded):
            save(attempt, 9)
        retention.sweep(attempt)
        attempt.refresh()
        retention.sweep(attempt)
    assert before.items() <= {path: memory.read(path) for path in memory.list()}.items()
    assert restore.newest(reader(memory)).entry == made


def test_a_save_in_flight_of_what_is_being_deleted_stays_whole(memory):
    log = CommitLog.open(memory, "a1")
    first = save(log, 1)
    save(log, 2)
    again = tensors_at(1)
    in_flight = shards.write_shards(memory, "a1", again, [Piece(name, 0, again[name].size) for name in again])
    retention.delete(log, [first.number])
    log.append("checkpoint", {**first.body, "shards": in_flight})
    assert same(restore.newest(reader(memory)).tensors, 1)


def test_a_deletion_lists_nothing_and_reads_nothing(memory):
    store, place = faulty_store(memory.url)
    log = CommitLog.open(store, "a1")
    saves(log, (1, 2, 3))
    place.calls.clear()
    removed = retention.delete(log, retention.surplus(log, keep=1))
    assert [name for name, _ in place.calls] == ["create", *["delete"] * len(removed)]
