"""A job that takes its time, whose workers write down each step, and which ends when it is told to."""

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import service


@dataclasses.dataclass(frozen=True)
class Options:
    """What the job is told.

    Attributes:
        notes: a folder where each worker process writes its steps; a file last-step in it names the one to stop after.
        step_seconds: how long each worker waits after a step.
        epochs: at most so many, of 100 steps each.
    """

    notes: str = ""
    step_seconds: float = 0.02
    epochs: int = 10000


class Page(NamedTuple):
    """What one worker process wrote down.

    Attributes:
        worker, count, process: who it was, of how many.
        steps: the steps it took, in order.
    """

    worker: int
    count: int
    process: int
    steps: list[int]


def attempts(notes: Path) -> list[list[Page]]:
    """Returns what the workers wrote, attempt after attempt."""
    pages = []
    # By the time as a number: a digit more would come first as a text.
    for path in sorted(notes.glob("*-of-*"), key=lambda path: int(path.name.partition("-")[0])):
        _, worker, _, count, process = path.name.split("-")
        pages.append(Page(int(worker), int(count), int(process), [int(line) for line in path.read_text().split()]))
    found = []
    while pages:
        found.append(sorted(pages[: pages[0].count]))
        pages = pages[pages[0].count :]
    return found


class Paced(keras.callbacks.Callback):
    """Writes down each step of this process; the notes and the page are each process's own, the step is the run's."""

    def __init__(self, notes: Path, seconds: float, worker: service.Worker) -> None:
        super().__init__()
        self.notes, self.seconds, self.step = notes, seconds, 0
        self.page = notes / f"{time.monotonic_ns()}-{worker.index}-of-{worker.count}-{os.getpid()}"

    def get_state(self) -> dict[str, Any]:
        return {"step": self.step}

    def set_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        with open(self.page, "a") as file:
            file.write(f"{self.step}\n")
        time.sleep(self.seconds)
        end = self.notes / "last-step"
        if end.exists() and self.step >= int(end.read_text()):
            self.model.stop_training = True


def train(worker: service.Worker) -> None:
    """Trains in float64, 100 steps an epoch, until the notes say when to stop; every worker calls this."""
    options = Options(**worker.options)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    x = np.random.RandomState(0).randn(1000, 3)
    layers = [
        keras.layers.Dense(4, "tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    paced = Paced(Path(options.notes), options.step_seconds, worker)
    worker.fit(model, x, x.sum(1, keepdims=True), batch_size=10, epochs=options.epochs, callbacks=[paced])


if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="paced"))
