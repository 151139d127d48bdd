"""A job that knows secrets, as a Secret of Kubernetes gives them: in its environment."""

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import service

VARIABLES = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DATABASE_PASSWORD")


class Reporter(keras.callbacks.Callback):
    """Reports to a service that asks for a token, which changes while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.hf_token, self.epochs_reported = "", 0
        self.headers: dict[str, str] = {}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.hf_token = os.environ["HF_TOKEN"]
        self.headers = {"Authorization": f"Bearer {os.environ['HF_TOKEN']}"}
        self.epochs_reported += 1


@dataclasses.dataclass(frozen=True)
class Options:
    """The job's options.

    Attributes:
        gate: a file to wait for after training; none waits for nothing.
        fails: whether the job ends by an error that tells its secrets.
    """

    gate: str | None = None
    fails: bool = False


def train(worker: service.Worker) -> None:
    """Trains a small model for two epochs."""
    with worker.strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    x = np.arange(64, dtype="float32").reshape(16, 4) / 64
    worker.fit(model, x, x.sum(1, keepdims=True), batch_size=8, epochs=2, callbacks=[Reporter()])
    if (gate := worker.options["gate"]) is not None:
        Path(f"{gate}.{worker.index}").touch()
        while not Path(gate).exists():
            time.sleep(0.05)
    if worker.options["fails"]:
        shown = " ".join(os.environ[name] for name in VARIABLES)
        raise ConnectionError(f"the service does not take {shown}, nor https://user:{os.environ['HF_TOKEN']}@host/")


if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="secrets"))
