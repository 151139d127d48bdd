"""Workers and drivers of a real run killed at many seeded moments: each run ends with the bits of an undisturbed one."""

import time

import numpy as np
import pytest

from tests.test_kills import (
    at_a_moment_of,
    attempts,
    drivers,
    kill,
    left,
    wait_for,
    whole,  # noqa: F401  (a fixture)
)

pytestmark = [pytest.mark.soak, pytest.mark.ray, pytest.mark.timeout(900)]

VICTIMS = ("worker-0", "worker-1", "driver", "driver and workers")
KILLS = [(VICTIMS[seed % len(VICTIMS)], seed) for seed in range(24)]


@pytest.fixture
def command(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    words = ("--storage", str(tmp_path), "--name", "killed", "--notes", str(notes))
    # The last --save-every-steps counts: what is saved changes no bit, but it slows the run down, so that workers
    # which outlive their driver for a few seconds do not train all that is left.
    return ("tests.kill_jobs", *words, "--save-every-steps", "1")


@pytest.mark.parametrize(("victim", "seed"), KILLS, ids=lambda value: str(value).replace(" ", "-"))
def test_whoever_is_killed_the_run_ends_with_the_same_bits(victim, seed, command, whole, tmp_path):  # noqa: F811
    folder, generator = tmp_path / "killed", np.random.default_rng(seed)
    with drivers() as start:
        driver = start(*command)
        # Of the run's about 190 entries.
        at_a_moment_of(1, folder, driver, generator, most=150)
        if victim.startswith("worker"):
            pid = int((tmp_path / "notes" / victim).read_text())
            kill({pid: driver.family()[pid]})
        else:
            driver.kill(with_all=victim == "driver and workers")
            driver = start(*command)
        assert driver.wait() == 0, driver.printed()
    assert left(folder) == whole
    assert attempts(folder) in (1, 2)  # one where workers that outlived their driver trained all that was left


@pytest.mark.parametrize("seed", range(4))
def test_a_driver_killed_while_it_starts_leaves_a_run_that_the_same_command_makes_whole(seed, command, whole, tmp_path):  # noqa: F811
    folder, generator = tmp_path / "killed", np.random.default_rng(seed)
    with drivers() as start:
        driver = start(*command)
        wait_for((folder / "run.json").exists, driver)
        time.sleep(generator.uniform(0.0, 8.0))
        driver.kill(with_all=bool(seed % 2))
        again = start(*command)
        assert again.wait() == 0, again.printed()
    assert left(folder) == whole
