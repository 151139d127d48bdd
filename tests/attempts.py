"""Attempts at runs, interrupted and not; run inside worker processes."""

import random
from typing import Any

import keras
import numpy as np
from keras import layers

import service
from service.attempt import Attempt
from service.cluster import strategy
from service.cluster.consensus import Council
from service.cluster.notice import Notice
from service.errors import RunInterrupted
from service.run import Run
from service.storage.store import Store
from tests.exact.parity import mirrored

ROWS = 45
X = np.random.RandomState(0).randn(ROWS, 5)
Y = X[:, :2] @ np.array([[1.0, -1.0], [0.5, 2.0]]) + np.random.RandomState(1).randn(ROWS, 2)
WEIGHTS = np.random.RandomState(2).gamma(0.5, 2.0, ROWS)


class Interrupted(Exception):
    """What stands for the death of a worker."""


class Interrupt(keras.callbacks.Callback):
    """Raises at one moment, (hook, epoch, batch), and only there; or gives the notice it has."""

    def __init__(self, moment: tuple[str, int, int] | None, notice: Notice | None = None) -> None:
        super().__init__()
        self.moment = moment
        self.notice = notice
        self.epoch = 0

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing: an interruption is no part of a run."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch
        self._meet("epoch_begin", 0)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._meet("batch_begin", batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._meet("batch_end", batch)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._meet("test_batch_end", batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._meet("epoch_end", 0)

    def on_train_end(self, logs: Any = None) -> None:
        self._meet("train_end", 0)

    def _meet(self, hook: str, batch: int) -> None:
        if self.moment != (hook, self.epoch, batch):
            return
        if self.notice is None:
            raise Interrupted(str(self.moment))
        self.notice.give()


class Author(keras.callbacks.Callback):
    """Keeps counts and draws numbers, as authors' callbacks do."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0
        self.drawn: list[float] = []
        self.trace = np.zeros(3)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches += 1
        self.drawn.append(random.random() + float(np.random.rand()))
        self.trace = self.trace + logs["loss"]


def build() -> Any:
    """Returns a model with noise, statistics, and an optimizer with state of every kind."""
    inputs = keras.Input((5,))
    hidden = layers.Dropout(0.3)(layers.BatchNormalization()(layers.Dense(8, "tanh")(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(layers.GaussianNoise(0.1)(hidden)))
    optimizer = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9, global_clipnorm=1.0)
    model.compile(optimizer, "mse", metrics=["mae"], weighted_metrics=["mse"])
    return model


def train(
    url: str | Store,
    moment: tuple[str, int, int] | None,
    epochs: int = 5,
    saves: dict[str, Any] | None = None,
    folds: int = 1,
    changes: dict[str, Any] | None = None,
    told: int | None = None,
) -> dict[str, Any] | str:
    """Makes one attempt at the run; returns what it left, or the moment of its second stage (or only one) that interrupted it.

    With `told`, that worker is asked at the moment to leave, and what the attempt then says is returned.
    Collective: every worker calls this.
    """
    store = Store(url) if isinstance(url, str) else url
    run = Run("test", storage=store.url, seed=5, **(saves or {}))
    keras.utils.set_random_seed(5)
    notice = Notice()
    attempt = Attempt(run, store, strategy.connect(), notice)
    if told is not None and told != attempt.council.index:
        moment = None
    author = Author()
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=3, mode="min", restore_best_weights=True)
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.5, mode="min")
    histories = []
    try:
        for fold in range(folds):
            model = build()
            history = attempt.fit(
                model,
                X,
                Y,
                epochs=epochs,
                validation_split=0.2,
                verbose=0,
                **{"batch_size": 8, "sample_weight": WEIGHTS, **(changes or {})},
                callbacks=[
                    Interrupt(moment if fold == min(1, folds - 1) else None, None if told is None else notice),
                    *(stopping, plateau, author),
                ],
            )
            histories.append(history.history)
    except Interrupted as interrupted:
        attempt.abandon()
        return str(interrupted)
    except RunInterrupted as interrupted:
        return str(interrupted)
    attempt.finish(None, {})
    return {
        "variables": [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)],
        "histories": histories,
        "epochs": history.epoch,
        "author": (author.batches, author.drawn, author.trace.tolist()),
        "stopping": (stopping.wait, stopping.best, stopping.stopped_epoch, stopping.best_epoch),
        "plateau": (plateau.wait, plateau.best, plateau.cooldown_counter),
        "rate": float(model.optimizer.learning_rate),
    }


def drift(url: str) -> None:
    """Trains with a callback that moves a weight on worker 1 alone. Collective: every worker calls this."""
    keras.utils.set_random_seed(5)
    attempt = Attempt(Run("test", storage=url, seed=5), Store(url), strategy.connect(), Notice())
    model = build()

    def move(batch: int, logs: Any) -> None:
        if attempt.council.index == 1 and batch == 1:
            model.layers[-1].kernel.assign_add(model.layers[-1].kernel * 1e-6)

    attempt.fit(model, X, Y, epochs=2, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=move)])


def begin(folder: str) -> None:
    """Begins an attempt in a folder that each worker has one of its own of. Collective: every worker calls this."""
    connected = strategy.connect()
    Attempt(Run("test", storage=folder, seed=5), Store(f"{folder}/{Council(connected).index}"), connected, Notice())


def alternate(url: str, stop_before: int | None, total: int = 7, told: int | None = None) -> dict[str, Any] | None:
    """Trains a generator and a discriminator in turn, by hand; returns their variables, or None when it stopped.

    With `told`, that worker is asked to leave where the loop would stop.
    Collective: every worker calls this.
    """
    run = Run("test", storage=url, seed=5)
    keras.utils.set_random_seed(5)
    notice = Notice()
    attempt = Attempt(run, Store(url), strategy.connect(), notice)
    d = keras.Sequential([keras.Input((2,)), layers.Dense(4, "tanh"), layers.Dropout(0.2), layers.Dense(1)])
    d.compile(keras.optimizers.Adam(0.05), keras.losses.BinaryCrossentropy(from_logits=True))
    g = keras.Sequential([keras.Input((5,)), layers.Dense(4, "tanh"), layers.Dense(2)])
    d.trainable = False
    both = keras.Sequential([g, d])
    both.compile(keras.optimizers.Adam(0.05), keras.losses.BinaryCrossentropy(from_logits=True))
    d.trainable = True
    losses = []
    for step in attempt.steps(total, {"d": d, "both": both}, 2):
        if step == stop_before and told is None:
            attempt.abandon()
            return None
        if step == stop_before and told == attempt.council.index:
            notice.give()
        rows = slice(step % 4 * 8, step % 4 * 8 + 9)
        made = service.predict(g, X[rows], verbose=0)
        d.trainable = True
        labels = np.repeat([1.0, 0.0], 9)[:, None]
        losses.append(attempt.train_on_batch(d, np.concatenate([Y[rows], made]), labels))
        d.trainable = False
        losses.append(attempt.train_on_batch(both, X[rows], np.ones((9, 1))))
    attempt.finish(None, {})
    everything = [*both.variables, *d.optimizer.variables, *both.optimizer.variables]
    return {"losses": losses[-4:], "variables": [keras.ops.convert_to_numpy(v) for v in everything]}


def compiled(url: str, jit: bool, workers: int | tuple[int, int], epochs: int) -> None:
    """Trains a run, of so many workers as a whole, of a model that asks for XLA, or not, on this worker alone."""
    keras.utils.set_random_seed(5)
    attempt = Attempt(Run("test", storage=url, seed=5, workers=workers), Store(url), strategy.connect(), Notice())
    model = keras.Sequential([keras.Input(X.shape[1:]), layers.Dense(2)])
    model.compile("sgd", "mse", jit_compile=jit)
    attempt.fit(model, X, Y, epochs=epochs, verbose=0)


def on_replicas(url: str) -> dict[str, list[float]]:
    """Trains a run of two epochs on two devices of one process, and returns its history."""
    keras.utils.set_random_seed(5)
    attempt = Attempt(Run("test", storage=url, seed=5, devices_per_worker=2), Store(url), strategy.connect(), Notice())
    with mirrored().scope():
        model = keras.Sequential([keras.Input(X.shape[1:]), layers.Dense(2)])
        model.compile("sgd", "mse")
    return attempt.fit(model, X, Y, epochs=2, verbose=0).history
