"""Whoever is killed, whenever: the run goes on, loses no committed step, and ends with the bits of an undisturbed one."""

import collections
import hashlib
import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from service import cli_verify
from service.storage import layout, restore
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests.buckets import gs_options
from tests.paced_jobs import attempts
from tests.test_kills import drivers, kill, wait_for
from tests.test_moves import controller
from tests.undertaking import Undertaking

pytestmark = [pytest.mark.soak, pytest.mark.ray, pytest.mark.timeout(3000)]

KILLS = {"folder": 32, "gs": 24}
VICTIMS = ("worker 0", "worker 1", "the controller", "the driver", "the driver with all it started", "the driver, twice")
# A checkpoint is ten steps of 20 ms each; of the newest two are kept, so that each commit also deletes.
WORDS = ["--save-every-steps", "10", "--keep", "2", "--epochs", "10000"]
OF_A_SAVE = ("in a step", "a shard was written", "an entry was committed", "a shard was deleted")
LONGEST_SECONDS = 4.0
STARTING_SECONDS = 8.0


def await_moment(run: Undertaking, moment: str, generator: np.random.Generator) -> None:
    """Returns at a random time, then as soon as the moment comes."""
    time.sleep(generator.uniform(0.0, LONGEST_SECONDS))
    if moment == "in a step":
        return
    folder = layout.COMMITS if moment == "an entry was committed" else layout.SHARDS
    before = set(run.store.list(folder))

    def has_come() -> bool:
        now = set(run.store.list(folder))
        return bool(before - now if moment == "a shard was deleted" else now - before)

    wait_for(has_come, run.driver)


def kill_one(run: Undertaking, victim: str, generator: np.random.Generator) -> None:
    """Kills, and gives the driver's command again where that was killed."""
    if victim.startswith("the driver"):
        run.driver.kill(with_all=victim != "the driver")
        run.begin()
        if victim == "the driver, twice":
            time.sleep(generator.uniform(0.0, STARTING_SECONDS))
            run.driver.kill(with_all=True)
            run.begin()
    elif victim == "the controller":
        os.kill(controller(run.driver.pid), signal.SIGKILL)
    else:
        process = attempts(run.notes)[-1][int(victim[-1])].process
        kill({process: run.driver.family()[process]})


@pytest.fixture(params=["folder", "gs"])
def place(request, tmp_path) -> Iterator[tuple[str, Callable[[str], Store]]]:
    """A kind of storage, and what makes a store of it for a run of a name."""
    if request.param == "folder":
        yield "folder", lambda name: Store(str(tmp_path / name))
        return
    address = request.getfixturevalue("gcs_address")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        patch.setenv("FSSPEC_GS", json.dumps({"token": "anon", "project": "project"}))
        folder = uuid.uuid4().hex
        yield "gs", lambda name: Store(f"gs://bucket/{folder}/{name}", **gs_options(address))


def bits(store: Store) -> str:
    """Returns the SHA-256 of all that the run's stage left, every byte of the run verified first."""
    assert [problem for check in cli_verify.checks(store) for problem in check["problems"]] == []
    log = CommitLog(store)
    log.refresh()
    digest = hashlib.sha256()
    for name, tensor in sorted(restore.newest(log, stage=1, final=True).tensors.items()):
        digest.update(repr((name, tensor.dtype.str, tensor.shape)).encode() + tensor.tobytes())
    ends = [entry.body for entry in log.entries() if entry.kind == "finished"]
    assert len(ends) == 1
    return f"{digest.hexdigest()} {ends[0]['history']}"


def test_a_run_whose_processes_are_killed_at_random_ends_as_if_nobody_had(place, tmp_path):
    kind, store_of = place
    generator, told = np.random.default_rng(11), collections.Counter[str]()
    notes, quiet = tmp_path / "notes", tmp_path / "quiet"
    notes.mkdir()
    quiet.mkdir()
    lost: list[int] = []
    with drivers() as start:
        run = Undertaking(store_of("killed"), notes, start, *WORDS)
        for number in range(KILLS[kind]):
            run.await_steps(number)
            # Every victim at every moment, in turn; the moment itself is chance.
            victim, moment = VICTIMS[number % len(VICTIMS)], OF_A_SAVE[number % len(OF_A_SAVE)]
            await_moment(run, moment, generator)
            kill_one(run, victim, generator)
            committed, taken = run.committed(), attempts(notes)[-1][0].steps[-1]
            run.await_steps(number + 1)
            begun = {page.steps[0] for page in attempts(notes)[-1]}
            assert len(begun) == 1, "all workers take up the same step"
            resumed = begun.pop() - 1
            assert committed <= resumed, f"{victim} killed when {moment}: a committed step was lost"
            lost.append(max(taken - resumed, 0))
            told[f"{victim}, {moment}"] += 1
        last = run.end()
        (quiet / "last-step").write_text(str(last))
        undisturbed = Undertaking(store_of("undisturbed"), quiet, start, *WORDS)
        assert undisturbed.driver.wait() == 0, undisturbed.driver.printed()
    assert bits(run.store) == bits(undisturbed.store)
    print(
        f"{sum(told.values())} kills on {kind}, {len(told)} pairs of victim and moment, {last} steps: the same bits; "
        f"steps taken again after a kill: {np.mean(lost):.1f} in the mean, {max(lost)} at most, of 10 a checkpoint"
    )
