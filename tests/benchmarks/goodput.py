"""How much of the time a run makes steps that count while its workers are killed again and again.

    python -m tests.benchmarks.goodput [--minutes M] [--every SECONDS]

Trains on two Ray workers of one local cluster that is up already, one step a tenth of a second and a
checkpoint every ten, and kills a worker with SIGKILL every so often, the chief and the other
in turn. Goodput is the time of the steps that count, those of the last attempt at each,
over the wall time less one cold start for each kill: what a restart without any loss would leave.
"""

import argparse
import os
import pathlib
import signal
import statistics
import tempfile
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import service
from tests import paced_jobs
from tests.paced_jobs import attempts

STEP_SECONDS = 0.1


def await_attempt(notes: pathlib.Path, number: int) -> float:
    """Returns the time at which all workers of an attempt, counted from 0, had taken a step."""
    while True:
        found = attempts(notes)
        if len(found) > number and len(found[number]) == 2 and all(page.steps for page in found[number]):
            return time.monotonic()
        time.sleep(0.02)  # the workers' files are all there is to look at


def main() -> None:
    """Measures and prints."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--minutes", type=float, default=15.0)
    words.add_argument("--every", type=float, default=90.0)
    options = words.parse_args()
    import ray

    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        notes = pathlib.Path(folder, "notes")
        notes.mkdir()
        run = service.Run("goodput", storage=folder, workers=2, seed=0, save_every_steps=10, save_every_epochs=None)
        asked = time.monotonic()
        told = {"notes": str(notes), "step_seconds": STEP_SECONDS}
        driver = threading.Thread(target=service.train, args=(paced_jobs.train, run), kwargs=told)
        driver.start()
        began = await_attempt(notes, 0)
        cold = began - asked
        recoveries: list[float] = []
        while time.monotonic() - began < options.minutes * 60 - options.every / 2:
            recovered = recoveries[-1] if recoveries else 0.0
            time.sleep(max(options.every - recovered, 0.0))  # from one kill to the next, of which the recovery took a part
            victim = attempts(notes)[-1][len(recoveries) % 2].process
            killed = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            recoveries.append(await_attempt(notes, len(recoveries) + 1) - killed)
        ended = time.monotonic()
        counted = attempts(notes)[-1][0].steps[-1]
        (notes / "last-step").write_text("0")
        driver.join()
        taken = sum(len(attempt[0].steps) for attempt in attempts(notes)[:-1]) + 1
    ray.shutdown()
    step = step_seconds(recoveries, ended - began, taken)
    allowed = ended - began - len(recoveries) * cold
    print(f"{os.cpu_count()} cores; {ended - began:.0f} s with {len(recoveries)} kills, one every {options.every:g} s")
    median, longest = statistics.median(recoveries), max(recoveries)
    print(f"cold start {cold:.1f} s, recovery {median:.1f} s in the median, {longest:.1f} s at most")
    print(f"{counted} steps count of {taken} taken, at {step * 1000:.0f} ms each")
    useful = counted * step
    print(f"goodput {useful / allowed:.1%} of what {allowed:.0f} s allow; {useful / (ended - began):.1%} of all time")


def step_seconds(recoveries: list[float], wall: float, taken: int) -> float:
    """Returns how long a step takes while the workers run, whether it counts or not."""
    return (wall - sum(recoveries)) / taken


if __name__ == "__main__":
    main()
