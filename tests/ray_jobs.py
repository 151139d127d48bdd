"""Jobs for the tests of the service: the digits' autoencoder and a small model, with the mishaps that a run can have."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import service


class Diary(keras.callbacks.Callback):
    """Writes down on the chief which process began which epoch."""

    def __init__(self, path: str, is_chief: bool) -> None:
        super().__init__()
        self.path, self.is_chief = path, is_chief

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.is_chief:
            with open(self.path, "a") as file:
                file.write(f"{os.getpid()} {epoch}\n")


class Killed(keras.callbacks.Callback):
    """Kills its process in the middle of an epoch; with a marker file, the first time only."""

    def __init__(self, epoch: int, batch: int, marker: str | None = None) -> None:
        super().__init__()
        self.marker, self.at, self.epoch = marker, (epoch, batch), 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) != self.at or (self.marker and Path(self.marker).exists()):
            return
        if self.marker:
            Path(self.marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)


class RaisesInEpoch2(keras.callbacks.Callback):
    """What an author's mistake in a callback looks like."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise ValueError("the author's mistake")


def vae_killed_once(worker: service.Worker) -> dict[str, float]:
    """The job of jobs.digits_vae, whose worker 1 is killed in the sixth batch of epoch 3, once."""
    from jobs import digits_vae  # brings scikit-learn, which the other jobs need not wait for

    given = dict(worker.options)
    folder = Path(given.pop("notes"))
    options = digits_vae.Options(**given)
    print(f"Greetings from worker {worker.index} of {worker.count}.")
    with worker.strategy.scope():
        model = digits_vae.build(options, worker.run.seed)
    fatal = Killed(epoch=2, batch=5, marker=str(folder / "was-killed")) if worker.index == 1 else keras.callbacks.Callback()
    callbacks = [Diary(str(folder / "diary"), worker.is_chief), fatal]
    x = digits_vae.digits()
    worker.fit(model, x, None, options.batch_size, options.epochs, validation_split=0.1, callbacks=callbacks)
    return {"workers": worker.count}


def small_model() -> keras.Model:
    """Returns a compiled model of 3 inputs and 1 output."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Returns 10 rows, x [10, 3] and y [10, 1], the same everywhere."""
    random = np.random.RandomState(0)
    return random.randn(10, 3), random.randn(10, 1)


def raises_on_worker_1(worker: service.Worker) -> None:
    """Worker 1's callback raises when epoch 2 begins; the others go on."""
    callbacks = [RaisesInEpoch2()] if worker.index == 1 else [keras.callbacks.Callback()]
    worker.fit(small_model(), *rows(), batch_size=4, epochs=3, callbacks=callbacks)


def draws_its_own_data(worker: service.Worker) -> None:
    """Every worker draws an x of its own."""
    x, y = rows()
    worker.fit(small_model(), x + worker.index, y, batch_size=4)


def weighs_a_row_nan(worker: service.Worker) -> None:
    """Row 3 weighs NaN, on every worker."""
    x, y = rows()
    weights = np.ones(10)
    weights[3] = np.nan
    worker.fit(small_model(), x, y, sample_weight=weights, batch_size=4)


def killed_always(worker: service.Worker) -> None:
    """Worker 1 dies in the second batch, in every attempt."""
    fatal = Killed(epoch=0, batch=1) if worker.index == 1 else keras.callbacks.Callback()
    worker.fit(small_model(), *rows(), batch_size=4, callbacks=[fatal])


class Stuck(keras.callbacks.Callback):
    """Takes no more steps from the middle of epoch 2 on, the first time: stopped from outside, or in a loop without an end."""

    def __init__(self, marker: Path, is_stopped: bool) -> None:
        super().__init__()
        self.marker, self.is_stopped, self.epoch = marker, is_stopped, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) != (1, 1) or self.marker.exists():
            return
        self.marker.touch()
        if self.is_stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        loop_without_end()


def loop_without_end() -> None:
    """What an author's mistake can be."""
    while True:
        time.sleep(0.01)


def stuck_once(worker: service.Worker) -> None:
    """Worker 1 is stuck in epoch 2, in the first attempt."""
    marker = Path(worker.options["notes"], f"{worker.run.name}-was-stuck")
    callbacks = [Stuck(marker, worker.options["stopped"])] if worker.index == 1 else [keras.callbacks.Callback()]
    worker.fit(small_model(), *rows(), batch_size=4, epochs=4, callbacks=callbacks)
