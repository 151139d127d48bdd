"""How long a run stands still when a worker is killed, beside a cold start of the same run.

    python -m tests.benchmarks.recovery [--rounds N]

Trains a small model on two Ray workers of one local cluster that is up already, kills worker 1
with SIGKILL in the middle of an epoch, and prints seconds, medians of the rounds: from
`service.train` to the end of the first step, and from the kill to the end of the first new
step, each split where the job's function and its training begin.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import tempfile
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np

import service

KILL_AT = 25  # steps; a checkpoint is due every 10


class Clock(keras.callbacks.Callback):
    """Writes down when training and each step begin, and kills worker 1 once."""

    def __init__(self, worker: service.Worker) -> None:
        super().__init__()
        self.worker = worker
        self.steps = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self._note("training")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        self._note("step")
        mark = pathlib.Path(self.worker.options["events"] + ".killed")
        if self.steps == KILL_AT and self.worker.index == 1 and not mark.exists():
            mark.write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, event: str) -> None:
        note(self.worker, event)


def note(worker: service.Worker, event: str) -> None:
    """Appends an event of the chief with its time."""
    if worker.is_chief:
        with open(worker.options["events"], "a") as file:
            file.write(json.dumps([event, time.time()]) + "\n")


def job(worker: service.Worker) -> keras.callbacks.History:
    """Trains a small model long enough to be killed."""
    note(worker, "job")
    x = np.random.RandomState(0).randn(1280, 64).astype("float32")
    with worker.strategy.scope():
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(256, "relu"), keras.layers.Dense(1)])
        model.compile("adam", "mse")
    return worker.fit(model, x, x[:, :1], batch_size=64, epochs=3, callbacks=[Clock(worker)], verbose=0)


def measure(folder: str, name: str) -> tuple[list[float], list[float]]:
    """Returns the seconds of the cold start and of the recovery, in parts: to the job, to training, to the step."""
    events = f"{folder}/{name}.events"
    began = time.time()
    run = service.Run(name, storage=folder, workers=2, seed=0, save_every_steps=10)
    service.train(job, run, events=events)
    noted = [json.loads(line) for line in pathlib.Path(events).read_text().splitlines()]
    killed = float(pathlib.Path(events + ".killed").read_text())

    def parts(begin: float) -> list[float]:
        places, last = [], begin
        for wanted in ("job", "training", "step"):
            last = next(at for event, at in noted if event == wanted and at > last)
            places.append(last)
        return [b - a for a, b in zip([begin, *places], places, strict=False)]

    return parts(began), parts(killed)


def main() -> None:
    """Measures and prints the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=3)
    rounds = words.parse_args().rounds
    import ray

    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        measured = [measure(folder, f"run-{i}") for i in range(rounds)]
    ray.shutdown()
    print(f"{rounds} rounds, {os.cpu_count()} cores")
    print(f"{'seconds':26}{'to the job':>12}{'to training':>13}{'to the step':>13}{'in all':>9}")
    for name, values in zip(("cold start", "recovery after SIGKILL"), zip(*measured, strict=True), strict=True):
        columns = [statistics.median(part) for part in zip(*values, strict=True)]
        total = statistics.median(sum(value) for value in values)
        print(f"{name:26}{columns[0]:12.1f}{columns[1]:13.1f}{columns[2]:13.1f}{total:9.1f}")


if __name__ == "__main__":
    main()
