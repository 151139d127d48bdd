"""Processes that are killed while they save into a folder."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from service.errors import Superseded
from service.storage import layout, receipts, restore, retention
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests.storage.faults import same, save

pytestmark = pytest.mark.processes
CONTEXT = multiprocessing.get_context("fork")


def _save_on(url, told):
    """Restores, and then saves step after step, keeping two; tells each step once it is committed."""
    log = CommitLog.open(Store(url))
    found = restore.newest(log)
    step, previous = (found.entry.body["step"], found.entry.body["shards"]) if found else (0, ())
    if found and not same(found.tensors, step):
        os._exit(9)
    retention.sweep(log)
    try:
        while True:
            step += 1
            previous = save(log, step, previous).body["shards"]
            told.send(step)
            retention.delete(log, retention.surplus(log, keep=2))
    except Superseded:
        os._exit(7)


def _start(url):
    here, there = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=_save_on, args=(url, there), daemon=True)
    child.start()
    there.close()
    return child, here


def _last_told(here):
    step = 0
    try:
        while True:
            step = here.recv()
    except EOFError:
        return step


def test_a_process_killed_at_any_moment_loses_nothing_that_was_committed(tmp_path):
    url, told = str(tmp_path), 0
    generator = np.random.default_rng(5)
    for _ in range(8):
        child, here = _start(url)
        assert here.poll(20)  # it has saved once
        time.sleep(generator.uniform(0.0, 0.05))
        os.kill(child.pid, signal.SIGKILL)
        child.join(20)
        assert child.exitcode == -signal.SIGKILL
        told = max(told, _last_told(here))
        log = CommitLog(Store(url))
        log.refresh()
        found = restore.newest(log)
        # What was committed but not yet told when it died is one step more.
        assert found.entry.body["step"] in (told, told + 1) and same(found.tensors, found.entry.body["step"])
        assert log.damaged == {} and found.skipped == {}
    last = CommitLog.open(Store(url))
    retention.delete(last, retention.surplus(last, keep=1))
    retention.sweep(last)
    named = {file for entry in last.checkpoints() for file in receipts.files(entry.body["shards"])}
    assert {*last.store.list(layout.SHARDS)} == named
