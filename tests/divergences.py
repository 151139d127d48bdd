"""Runs whose data make training diverge, and the same without these data; run inside worker processes."""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

import service
from service.attempt import Attempt
from service.cluster import strategy
from service.cluster.notice import Notice
from service.errors import RolledBack, ServiceError
from service.run import Run
from service.storage.store import Store
from tests import attempts
from tests.attempts import WEIGHTS, Interrupt, Interrupted, X, Y
from tests.storage.faults import Died, faulty_store

BATCH = 8  # 45 rows: five batches of 8, and one of 5
STEPS = 6


class Harm(keras.callbacks.Callback):
    """Multiplies a weight after the steps on some batches of some epochs, which nobody sees in their losses."""

    def __init__(self, places: dict[tuple[int, int], float]) -> None:
        super().__init__()
        self.places, self.now = places, 0

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing: the harm is no part of a run."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.now = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (factor := self.places.get((self.now, batch))) is not None:
            kernel = self.model.layers[1].kernel
            kernel.assign(kernel * factor)


def poisoned(rows: list[slice], by: float = 1e30) -> np.ndarray:
    """Returns targets of which these rows are so large that the square of each is above float32's range."""
    y = Y.astype(np.float32)
    for each in rows:
        y[each] *= by
    return y


def repeated(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Does what a driver does: begins again for as long as training goes back; returns what it left and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        while True:
            try:
                return {**act(), "said": said.getvalue()}
            except RolledBack:
                continue
            except (Interrupted, ServiceError) as error:
                return {"error": f"{type(error).__name__}: {error}", "said": said.getvalue()}


def attempt_at(url: str, options: dict[str, Any], store: Store | None = None) -> Attempt:
    """Begins an attempt as a worker does."""
    run = Run("test", storage=url, seed=5, **options)
    keras.utils.set_random_seed(5)
    return Attempt(run, store or Store(url), strategy.connect(), Notice())


def noisy() -> Any:
    """Returns a small model with noise, and an optimizer with state."""
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, "tanh"), layers.Dropout(0.3), layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    return model


def train(
    url: str,
    options: dict[str, Any],
    poison: list[slice] = [],  # noqa: B006  (only read)
    left: list[slice] = [],  # noqa: B006
    by: float = 1e30,
    epochs: int = 2,
    moment: tuple[str, int, int] | None = None,
) -> dict[str, Any]:
    """Trains a model with noise until it is done, on data of which some rows are poison, or of which some were left out.

    Collective: every worker calls this.
    """
    gone = np.zeros(len(X), bool)
    for each in left:
        gone[each] = True

    def act() -> dict[str, Any]:
        attempt = attempt_at(url, options)
        author, model = attempts.Author(), noisy()
        plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.5, mode="min")
        try:
            history = attempt.fit(
                model,
                *(X[~gone], poisoned(poison, by)[~gone]),
                sample_weight=WEIGHTS[~gone],
                batch_size=BATCH,
                epochs=epochs,
                shuffle=False,
                validation_data=(X[:13], Y[:13]),
                verbose=0,
                callbacks=[Interrupt(moment), plateau, author],
            )
        except (RolledBack, Interrupted):
            attempt.abandon()
            raise
        attempt.finish(None, {})
        return {
            "variables": [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)],
            "history": history.history,
            "epochs": history.epoch,
            "author": (author.batches, author.drawn, author.trace.tolist()),
            "plateau": (plateau.wait, plateau.best, float(model.optimizer.learning_rate)),
        }

    return repeated(act)


def simple() -> Any:
    """Returns a small model without noise."""
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, "relu"), layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", metrics=["mae"])
    return model


def stream(places: set[tuple[int, int]], steps: int = STEPS, by: float = 1e30) -> Iterator[Any]:
    """Yields batches without end, an epoch of so many behind the other; the targets at (epoch, batch) are poison."""
    epoch = 0
    while True:
        for batch in range(steps):
            rows = slice(batch % 5 * BATCH, batch % 5 * BATCH + BATCH)
            y = Y[rows].astype(np.float32)
            yield X[rows], y * by if (epoch, batch) in places else y
        epoch += 1


def simply(
    url: str,
    options: dict[str, Any],
    places: set[tuple[int, int]],
    epochs: int = 3,
    harm: dict[tuple[int, int], float] | None = None,
    steps: int = STEPS,
    by: float = 1e30,
    moment: tuple[str, int, int] | None = None,
    callbacks: tuple[str, ...] = (),
    store: Callable[[], Store] | None = None,
    make: Callable[[], Any] = simple,
) -> dict[str, Any]:
    """Trains a small model on a stream with poison at some places, until it is done. Collective: every worker calls this."""

    def act() -> dict[str, Any]:
        attempt = attempt_at(url, options, store and store())
        model = make()
        added = [getattr(keras.callbacks, name)() for name in callbacks]
        try:
            history = attempt.fit(
                model,
                stream(places, steps, by),
                steps_per_epoch=steps,
                epochs=epochs,
                validation_data=(X[:13], Y[:13]),
                verbose=0,
                callbacks=[Harm(harm or {}), *added, Interrupt(moment)],
            )
        except (RolledBack, Interrupted):
            attempt.abandon()
            raise
        attempt.finish(None, {})
        return {"weights": model.get_weights(), "history": history.history, "updates": int(model.optimizer.iterations)}

    return repeated(act)


def dying(url: str, options: dict[str, Any], places: set[tuple[int, int]], at: int = 0) -> tuple[Any, Any]:
    """Trains an epoch as `simply` with a storage whose `at`-th call kills the process; returns what it left, and the calls."""
    store, place = faulty_store(url, at, "dies")
    try:
        return simply(url, options, places, 1, store=lambda: store), place.calls
    except Died:
        return None, place.calls


def stock(epochs: list[list[int]]) -> dict[str, Any]:
    """Trains the small model in stock Keras, each epoch on these batches of the clean stream alone."""
    keras.utils.set_random_seed(5)
    model = simple()
    history: dict[str, list[float]] = {}
    for batches in epochs:
        rows = np.concatenate([np.arange(BATCH) + batch % 5 * BATCH for batch in batches or [0]])
        logs: dict[str, Any] = {"loss": [np.nan], "mae": [np.nan]}
        if batches:
            logs = model.fit(X[rows], Y[rows].astype(np.float32), BATCH, shuffle=False, verbose=0).history
        held_out = model.evaluate(X[:13], Y[:13], verbose=0, return_dict=True)
        for name, value in {**logs, **{f"val_{name}": [value] for name, value in held_out.items()}}.items():
            history.setdefault(name, []).extend(value)
    return {"weights": model.get_weights(), "history": history}


class OwnStep(keras.Model):
    """Takes its steps itself, as authors do, and tells of one loss under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)
        self.own = keras.metrics.Mean(name="own_loss")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.dense(x)

    def train_step(self, data: Any) -> dict[str, Any]:
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        self.own.update_state(loss)
        return {"own_loss": self.own.result()}


def own_step() -> Any:
    """Returns a model that takes its steps itself."""
    model = OwnStep()
    model.compile("sgd", "mse")
    return model


def job(worker: service.Worker) -> None:
    """Trains the small model on arrays of which the third batch is poison."""
    with worker.strategy.scope():
        model = simple()
    worker.fit(model, X, poisoned([slice(16, 24)]), batch_size=BATCH, epochs=2, shuffle=False)


def driven(storage: str, workers: int = 0, **options: Any) -> tuple[dict[str, list[float]], str]:
    """Has `service.train` run the job; returns its history and what was printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        result = service.train(job, Run("driven", storage, workers=workers, seed=5, rollbacks=1, save_every_steps=1, **options))
    return result.history, said.getvalue()
