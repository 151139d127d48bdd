"""Random damage to a run's files: what is restored is always a committed checkpoint, and the bad is named."""

import collections
import hashlib
import json
import time

import numpy as np
import pytest

from service import cli_verify
from service.errors import Corrupt
from service.storage import entries, layout, receipts, restore, retention
from service.storage.commits import CommitLog
from tests.storage.faults import same, save

BLOCK = 64


class Whole:
    """A run as it was committed.

    Attributes:
        kept: each file's bytes.
        needed: of each checkpoint that counts, by number, its entry's and its files' paths.
        steps: the step of each.
    """

    def __init__(self, store, seed):
        generator = np.random.default_rng(seed)
        log = CommitLog.open(store, "a0")
        previous = ()
        for step in range(1, generator.integers(4, 10)):
            previous = save(log, step, previous, workers=int(generator.integers(1, 4))).body["shards"]
            if generator.random() < 0.2:
                previous = ()
            if step > 4 and generator.random() < 0.4:
                retention.delete(log, retention.surplus(log, keep=3))
            if generator.random() < 0.2:
                log = CommitLog.open(store, f"a{step}")
        self.kept = {path: store.read(path) for path in store.list()}
        saved = {entry.number: entry.body for entry in log.checkpoints()}
        self.needed = {n: {layout.commit(n), *receipts.files(body["shards"])} for n, body in saved.items()}
        self.steps = {n: body["step"] for n, body in saved.items()}


# Each way takes the whole run, another, a path and a generator, and returns new bytes by path; None deletes.
def flip(run, other, path, generator):
    data = bytearray(run.kept[path])
    data[generator.integers(len(data))] ^= 1 << generator.integers(8)
    return {path: bytes(data)}


def truncate(run, other, path, generator):
    return {path: run.kept[path][: generator.integers(len(run.kept[path]))]}


def delete(run, other, path, generator):
    return {path: None}


def append(run, other, path, generator):
    return {path: run.kept[path] + generator.bytes(generator.integers(1, BLOCK))}


def overwrite(run, path, generator, block):
    data = bytearray(run.kept[path])
    begin = int(generator.integers(len(data)))
    data[begin : begin + len(block)] = block[: len(data) - begin]
    return {path: bytes(data)}


def zero(run, other, path, generator):
    return overwrite(run, path, generator, bytes(BLOCK))


def scramble(run, other, path, generator):
    return overwrite(run, path, generator, generator.bytes(BLOCK))


def misplace(run, other, path, generator):
    data = run.kept[path]
    begin = int(generator.integers(len(data)))
    return overwrite(run, path, generator, data[begin : begin + BLOCK])


def _like(run, path, generator):
    """Another file of the same folder."""
    near = [name for name in run.kept if name != path and name.partition("/")[0] == path.partition("/")[0]]
    near.sort(key=lambda path: path.rpartition("-")[2])
    return near[generator.integers(len(near))] if near else path


def swap(run, other, path, generator):
    near = _like(run, path, generator)
    return {path: run.kept[near], near: run.kept[path]}


def age(run, other, path, generator):
    """An older file's bytes under the name of a newer one."""
    return {path: run.kept[_like(run, path, generator)]}


def exchange(run, other, path, generator):
    """Another run's file, of the same name where it has one."""
    return {path: other.kept.get(path, other.kept[min(other.kept)])}


def edit(run, other, path, generator):
    """A number in an entry changed as text, or in a header."""
    data = run.kept[path]
    places = [i for i, byte in enumerate(data[:4000]) if 48 <= byte <= 57]
    place = places[generator.integers(len(places))] if places else 0
    return {path: data[:place] + bytes([48 + (data[place] - 47) % 10]) + data[place + 1 :]}


def forge(run, other, path, generator):
    """An entry edited under a true checksum.

    The link of the next one does not fit it, and which of the two is the false one a third tells.
    """
    last = max(filter(None, map(layout.number_of, run.kept)))
    path = path if (layout.number_of(path) or last) <= last - 2 else layout.commit(1)
    fields = json.loads(run.kept[path])
    fields.pop("sha256")
    fields["body"]["step"] = 77
    fields["sha256"] = hashlib.sha256(entries._canonical(fields)).hexdigest()
    return {path: entries._canonical(fields)}


WAYS = (flip, truncate, delete, append, zero, scramble, misplace, swap, age, exchange, edit, forge)


def damage(run, other, generator):
    """Returns the ways of one to three damages, and what they put where."""
    count = int(generator.choice([1, 1, 1, 2, 3]))
    ways = [WAYS[generator.integers(len(WAYS))] for _ in range(count)]
    # Of a whole entry that is not the run's own, only its neighbours tell: they must be whole.
    ways = [way for way in ways if way in (forge, exchange)][:1] or ways
    changed = {}
    # By content: what else is in their names is drawn anew each time.
    paths = sorted(run.kept, key=lambda path: path.rpartition("-")[2])
    if generator.random() < 0.6:
        paths = [path for path in paths if path in run.needed[max(run.needed)]]
    for way in ways:
        changed |= way(run, other, paths[generator.integers(len(paths))], generator)
    return ways, {path: data for path, data in changed.items() if data != run.kept[path]}


def put(store, files):
    for path, data in files.items():
        if data is None:
            store.delete(path)
        else:
            store.write(path, data)


def check_restored(run, store, changed):
    """Raises unless the newest whole checkpoint is restored bit by bit and what is wrong with newer ones is told.

    Returns whether an older one, or none, had to do.
    """
    hurt = {number for number, needed in run.needed.items() if needed & changed.keys()}
    whole = [number for number in run.needed if number not in hurt]
    log = CommitLog(store)
    log.refresh()
    try:
        found = restore.newest(log)
    except Corrupt as error:
        found, told = None, str(error)
    else:
        told = "\n".join(found.skipped.values()) if found else ""
    assert (found.entry.number if found else 0) == max(whole, default=0)
    if found:
        assert same(found.tensors, run.steps[found.entry.number])
        assert entries.encode(found.entry) == run.kept[layout.commit(found.entry.number)]
    # Of a log whose end was deleted nothing is left to tell.
    end = max((n for path in store.list(layout.COMMITS) if (n := layout.number_of(path))), default=0)
    for number in hurt:
        if number > max(whole, default=0) and number <= end:
            assert any(path in told for path in run.needed[number] & changed.keys()), (number, told)
    _check_verified(run, store, changed, end)
    return bool(hurt) and max(hurt) > max(whole, default=0)


def _check_verified(run, store, changed, end):
    """`verify` names each damaged file that a checkpoint needs whose entry can be read."""
    told = "\n".join(problem for check in cli_verify.checks(store) for problem in check["problems"])
    for number, needed in run.needed.items():
        bad = needed & changed.keys()
        entry = layout.commit(number)
        for path in {entry} & bad if entry in bad else bad:
            assert path in told or number > end, (path, told)


def check_that_it_goes_on(run, store, changed):
    """A new attempt takes over what is whole, saves, keeps two and sweeps; what was bad is kept as it is."""
    log = CommitLog.open(store)
    try:
        found = restore.newest(log)
    except Corrupt:
        return
    entry = save(log, 50, found.entry.body["shards"] if found else ())
    retention.delete(log, retention.surplus(log, keep=2))
    retention.sweep(log)
    again = CommitLog(store)
    again.refresh()
    assert restore.newest(again).entry == entry and same(restore.newest(again).tensors, 50)
    there = store.sizes()
    live = [path for entry in again.checkpoints() for path in receipts.files(entry.body["shards"])]
    assert {*live} - {path for path, data in changed.items() if data is None} <= there.keys()
    for path, data in changed.items():
        if path.startswith(layout.COMMITS) and data is not None:
            assert store.read(path) == data


def corrupt(make_store, kind, trials, first_seed=0):
    """Damages runs at random, `trials` times; returns how often in each way, and how often an older checkpoint had to do."""
    runs = [Whole(make_store("memory"), seed) for seed in range(12)]
    counts, fell_back = collections.Counter(), 0
    store = make_store(kind)
    for trial in range(trials):
        generator = np.random.default_rng([first_seed, trial])
        one, two = generator.choice(len(runs), 2, replace=False)
        ways, changed = damage(runs[one], runs[two], generator)
        put(store, {**dict.fromkeys(store.list()), **runs[one].kept, **changed})
        try:
            fell_back += check_restored(runs[one], store, changed)
            check_that_it_goes_on(runs[one], store, changed)
        except AssertionError as error:
            raise AssertionError(f"trial {trial}: {[way.__name__ for way in ways]} of {sorted(changed)}: {error}") from error
        counts.update(way.__name__ for way in ways)
    return counts, fell_back


def campaign(make_store, trials_by_kind):
    began, counts, fell_back = time.perf_counter(), collections.Counter(), 0
    for kind, trials in trials_by_kind.items():
        found, older = corrupt(make_store, kind, trials, first_seed=len(kind))
        counts, fell_back = counts + found, fell_back + older
    trials = sum(trials_by_kind.values())
    print(
        f"{trials} corruptions ({', '.join(f'{n} {kind}' for kind, n in trials_by_kind.items())}; "
        f"{', '.join(f'{way} {n}' for way, n in sorted(counts.items()))}): 0 silent, {fell_back} went back to an older "
        f"checkpoint or to none, each by name, {time.perf_counter() - began:.0f} s"
    )
    assert set(counts) == {way.__name__ for way in WAYS}


def test_a_damaged_run_is_restored_from_what_is_whole_and_the_bad_is_named(make_store):
    campaign(make_store, {"memory": 100, "folder": 20, "gs": 5})


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_thousand_damaged_runs_are_restored_from_what_is_whole_and_the_bad_is_named(make_store):
    campaign(make_store, {"memory": 750, "folder": 150, "gs": 100})
