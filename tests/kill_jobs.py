"""The digits' classifier with what tests of kills need: its workers tell their processes, and one moment can be held."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import keras

import service
from jobs import digits_classifier

GATE_EPOCH = 2  # counted from 0


@dataclasses.dataclass(frozen=True)
class Options(digits_classifier.Options):
    """The classifier's options, and one more.

    Attributes:
        notes: a folder that each worker writes its process's number to, as worker-0, worker-1, ...
    """

    notes: str = ""


class Gate(keras.callbacks.Callback):
    """Holds the chief at the beginning of epoch 3 for as long as the notes have a pipe "gate" that nobody opens."""

    def __init__(self, notes: Path, is_chief: bool) -> None:
        super().__init__()
        self.notes, self.is_chief = notes, is_chief

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing: waiting is no part of a run."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.is_chief and epoch == GATE_EPOCH and (self.notes / "gate").exists():
            (self.notes / "at-gate").touch()
            (self.notes / "gate").read_text()  # opening a pipe waits for who writes to it


def train(worker: service.Worker) -> keras.callbacks.History:
    """Trains as jobs.digits_classifier does; every worker calls this."""
    given = dict(worker.options)
    notes = Path(given.pop("notes"))
    fresh = notes / f".worker-{worker.index}"
    fresh.write_text(str(os.getpid()))
    fresh.replace(notes / f"worker-{worker.index}")
    options = digits_classifier.Options(**given)
    x, y, weights = digits_classifier.imbalanced_digits(options.kept)
    with worker.strategy.scope():
        model = digits_classifier.build(options, worker.run.seed or 0)
    return worker.fit(
        model,
        x,
        y,
        sample_weight=weights,
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_split=0.2,
        callbacks=[*digits_classifier.callbacks(options), Gate(notes, worker.is_chief)],
    )


if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="killed"))
