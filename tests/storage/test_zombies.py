"""Attempts stopped at random moments of saving, committing and deleting, superseded, and woken: they change nothing."""

import collections
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from service.errors import Superseded
from service.storage import layout, places, receipts, restore, retention, shards
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests.buckets import gs_options
from tests.storage.faults import same, save

pytestmark = pytest.mark.processes
# Its server has no threads and no clients: a fork of it is as good as a new process, in no time.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.storage.test_zombies", "gcsfs"])
SUPERSEDED = 7


class Telling:
    """A place that writes down each call before and after it, where the reader of the file finds it at once."""

    def __init__(self, place, notes):
        self.place, self.notes = place, notes

    def __getattr__(self, name):
        def call(*args):
            os.write(self.notes, f"{name} {args[0]}\n".encode())
            try:
                return getattr(self.place, name)(*args)
            finally:
                os.write(self.notes, f"done {name}\n".encode())

        return call


def live(url, options, notes, told):
    """An attempt: restores, then saves step after step and keeps two, until it is superseded."""
    notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = CommitLog.open(Store(url, connect=lambda url, options: Telling(places.connect(url, options), notes), **options))
    found = restore.newest(log)
    step, previous = (found.entry.body["step"], found.entry.body["shards"]) if found else (0, ())
    try:
        while True:
            step += 1
            previous = save(log, step, previous).body["shards"]
            retention.delete(log, retention.surplus(log, keep=2))
            told.send(step)
            if step % 5 == 0:
                retention.sweep(log)
    except Superseded as error:
        told.send(str(error))
        os._exit(SUPERSEDED)


def stop(pid):
    """Stops a process, and returns once it stands still."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)


def moment(notes):
    """Returns the call that a stopped attempt is in, or "between calls"."""
    last = notes.read_text().splitlines()[-1]
    return "between calls" if last.startswith("done") else last.split()[0]


def take_over(store, commits, generator):
    """Takes the run over as a new attempt does; returns its log."""
    log = CommitLog.open(store)
    found = restore.newest(log)
    assert found.skipped == {} and same(found.tensors, found.entry.body["step"])
    if generator.random() < 0.5:
        retention.sweep(log)
    step, previous = found.entry.body["step"], found.entry.body["shards"]
    for _ in range(commits):
        step += 1000
        previous = save(log, step, previous).body["shards"]
        if generator.random() < 0.5:
            retention.delete(log, retention.surplus(log, keep=1))
    return log


def dead_files(log):
    """Returns the files that tombstones name: nothing may ever need them again."""
    return {file for entry in log.entries() if entry.kind == "deleted" for file in entry.body["files"]}


def check_nothing_changed(store, new, before):
    """Raises unless the log is as the new attempt left it, and all that counts is whole; returns the dead files that went.

    What was written of files under the old attempt's name is no change: no entry will ever name it.
    """
    again = CommitLog(store)
    again.refresh()
    assert again.damaged == {} and [e.number for e in again.entries()] == [e.number for e in new.entries()]
    after = store.sizes()
    assert {path for path in after if layout.number_of(path)} == {path for path in before if layout.number_of(path)}
    gone = before.keys() - after.keys()
    assert gone <= dead_files(new)
    for entry in again.checkpoints():
        assert same(shards.read_tensors(store, entry.body["shards"]), entry.body["step"])
    return len(gone)


def haunt(store, options, folder, seed):
    """One trial; returns the moment of the stop, and how many files that were deleted already the old attempt removed."""
    generator, notes = np.random.default_rng(seed), folder / f"notes-{seed}"
    here, there = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=live, args=(store.url, options, str(notes), there), daemon=True)
    child.start()
    there.close()
    try:
        for _ in range(int(generator.integers(1, 4))):  # so many rounds of saving and deleting are whole
            assert here.poll(60)
            here.recv()
        time.sleep(generator.uniform(0.0, 0.05 if options else 0.02))
        stop(child.pid)
        stopped_in = moment(notes)
        new = take_over(store, int(generator.integers(0, 3)), generator)
        before = store.sizes()
        os.kill(child.pid, signal.SIGCONT)
        child.join(60)
        assert child.exitcode == SUPERSEDED
        while isinstance(last := here.recv(), int):
            pass
        assert f'was superseded: attempt "{new.attempt}" wrote' in last
        late = check_nothing_changed(store, new, before)
    finally:
        child.kill()
        child.join(10)
    sweeper = CommitLog.open(store)
    retention.sweep(sweeper)
    named = {file for entry in sweeper.checkpoints() for file in receipts.files(entry.body["shards"])}
    assert {*store.list(layout.SHARDS)} == named
    return stopped_in, late


def campaign(make_store, gcs_address, folder, trials_by_kind):
    began, moments, late = time.perf_counter(), collections.Counter(), 0
    for kind, trials in trials_by_kind.items():
        options = gs_options(gcs_address) if kind == "gs" else {}
        for seed in range(trials):
            store = make_store(kind)
            path = folder / kind
            path.mkdir(exist_ok=True)
            stopped_in, files = haunt(store, options, path, seed)
            moments[stopped_in] += 1
            late += files
    trials = sum(trials_by_kind.values())
    print(
        f"{trials} zombies ({', '.join(f'{n} {kind}' for kind, n in trials_by_kind.items())}; stopped in "
        f"{', '.join(f'{name} {n}' for name, n in moments.most_common())}): 0 commits, 0 deletions of what counts "
        f"({late} files went that their tombstones had named before), each said why, {time.perf_counter() - began:.0f} s"
    )
    return moments


def test_an_attempt_that_wakes_after_a_new_one_opened_commits_and_deletes_nothing(make_store, gcs_address, tmp_path):
    campaign(make_store, gcs_address, tmp_path, {"folder": 6, "gs": 4})


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_of_two_hundred_attempts_that_wake_too_late_none_commits_or_deletes(make_store, gcs_address, tmp_path):
    moments = campaign(make_store, gcs_address, tmp_path, {"folder": 120, "gs": 80})
    assert {"write", "create", "delete"} <= moments.keys()
