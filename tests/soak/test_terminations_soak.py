"""SIGTERM to any worker or to the driver, at any moment: all workers commit after the same step, and no step is lost."""

import contextlib
import os
import signal
import time

import numpy as np
import pytest

from service.storage.commits import CommitLog
from service.storage.store import Store
from tests.paced_jobs import attempts
from tests.test_kills import drivers, kill
from tests.undertaking import Undertaking

pytestmark = [pytest.mark.soak, pytest.mark.ray, pytest.mark.timeout(3600)]

TRIALS = 100
# No checkpoint but those that the signals lead to: the next one by itself would be hours away.
WORDS = ["--save-every-steps", "1000000", "--save-every-epochs", "10000", "--epochs", "10000"]
LONGEST_SECONDS = 2.0
# In every tenth trial each: the driver is the one, and what comes instead of patience.
OTHERS = {3: "the driver", 6: "a worker, which is killed before it is done", 9: "a worker, twice"}


def test_a_hundred_signals_lose_no_step(tmp_path):
    generator, notes = np.random.default_rng(7), tmp_path / "notes"
    notes.mkdir()
    seconds: list[float] = []
    with drivers() as start:
        run = Undertaking(Store(str(tmp_path / "told")), notes, start, *WORDS)
        for trial in range(TRIALS):
            run.await_steps(trial)
            time.sleep(generator.uniform(0.0, LONGEST_SECONDS))
            whom = OTHERS.get(trial % 10, "a worker")
            committed, began = run.committed(), time.monotonic()
            process = run.driver.pid if whom == "the driver" else attempts(notes)[-1][int(generator.integers(2))].process
            os.kill(process, signal.SIGTERM)
            if whom == "a worker, twice":
                time.sleep(generator.uniform(0.0, 0.2))
                with contextlib.suppress(ProcessLookupError):  # it may have committed and left by then
                    os.kill(process, signal.SIGTERM)
            if "killed" in whom:
                time.sleep(generator.uniform(0.0, 0.2))
                kill({process: run.driver.family().get(process, "")})
            run.await_commit_after(committed, trial)
            if "killed" not in whom:
                seconds.append(time.monotonic() - began)
            if whom == "the driver":
                assert run.driver.wait() == 130, run.driver.printed()
                run.begin()
            run.await_steps(trial + 1)
            before, after = attempts(notes)[trial], attempts(notes)[trial + 1]
            assert len({page.steps[0] for page in after}) == 1
            if "killed" in whom:
                assert after[0].steps[0] > committed, "what was committed before is not lost"
            else:
                assert {page.steps[-1] + 1 for page in before} == {after[0].steps[0]}, f"{whom}, trial {trial}"
        run.end()
    log = CommitLog(run.store)
    log.refresh()
    assert log.damaged == {}
    others = sum(trial % 10 in OTHERS for trial in range(TRIALS))
    print(
        f"{TRIALS} signals, {others} of them to the driver, twice, or with a SIGKILL after them: all workers left after the "
        f"same step, and none but a killed one lost any; committed after {np.median(seconds):.1f} s in the median, "
        f"{max(seconds):.1f} s at most where none was killed"
    )
