"""Runs with callbacks of every kind, interrupted and not; run inside worker processes."""

import contextlib
import pathlib
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

import service
from service.attempt import Attempt
from service.cluster import strategy
from service.cluster.consensus import Council
from service.cluster.notice import Notice
from service.run import Run
from service.storage.store import Store
from tests.attempts import Interrupt, Interrupted
from tests.exact.parity import mirrored

ROWS, EPOCHS = 45, 9
X = np.random.RandomState(0).randn(ROWS, 5)
Y = X[:, :2] * 0.7 + np.random.RandomState(1).randn(ROWS, 2)
WATCH = {"monitor": "val_loss", "mode": "min"}
SPEEDS = ("speed/samples_per_second", "speed/step_seconds", "speed/data_wait_seconds", "_hparams_/session_end_info")


class Own(keras.callbacks.Callback):
    """An author's: adds to the logs, writes to tf.summary, and sets a rate from the logs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(logs["loss"])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["ratio"] = logs["val_loss"] / logs["loss"]
        tf.summary.scalar("own/ratio", logs["ratio"])


class Alone(keras.callbacks.Callback):
    """An author's that is called on the chief alone; it asks the model for predictions and saves it."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder, self.sums = folder, [0.0]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.sums.append(float(np.sum(self.model.predict(X, verbose=0))))
        self.model.save_weights(f"{self.folder}/alone.weights.h5")
        if epoch == 1:
            self.model.optimizer.learning_rate = 0.04


class Watched(layers.Dense):
    """A layer that writes what it gives to tf.summary."""

    def call(self, x: Any, training: bool = False) -> Any:
        y = super().call(x)
        tf.summary.scalar("inside/mean", tf.reduce_mean(y))
        return y


def ours(folder: str) -> list[Any]:
    """Returns a list of this package's callbacks, and an author's."""
    return listed(service.callbacks, folder)


def stock(folder: str) -> list[Any]:
    """Returns a list of Keras's callbacks, as an author's script has them, and an author's."""
    return listed(keras.callbacks, folder)


def listed(made: Any, folder: str) -> list[Any]:
    """Returns a callback of every kind that `made` has by name."""
    return [
        Own(),
        service.callbacks.chief_only(Alone(folder)),
        made.LearningRateScheduler(lambda epoch, rate: rate * 0.9 if epoch == 2 else rate),
        made.ReduceLROnPlateau(**WATCH, patience=1, factor=0.5, cooldown=1),
        made.EarlyStopping(**WATCH, patience=3, restore_best_weights=True),
        made.TerminateOnNaN(),
        made.ModelCheckpoint("best.weights.h5", **WATCH, save_best_only=True, save_weights_only=True),
        made.ModelCheckpoint("at-{epoch:02d}-{batch}.weights.h5", save_weights_only=True, save_freq=7),
        made.CSVLogger("log.csv"),
        made.TensorBoard("anywhere", histogram_freq=2, update_freq=2, write_images=True),
    ]


def build() -> Any:
    """Returns a model that overfits, with noise and statistics."""
    inputs = keras.Input((5,))
    hidden = layers.BatchNormalization(name="norm")(Watched(16, "tanh", name="watched")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="end")(layers.Dropout(0.1, name="drop")(hidden)), name="made")
    model.compile(keras.optimizers.Adam(0.2), "mse", metrics=["mae"])
    return model


def train(
    url: str, kind: str, moment: tuple[str, int, int] | None = None, saves: dict[str, Any] | None = None, files_in: str = ""
) -> dict[str, Any] | str:
    """Makes one attempt at a run with the callbacks of a kind; returns what they know and wrote, or the moment that cut it.

    Collective: every worker calls this.
    """
    keras.utils.set_random_seed(5)
    attempt = Attempt(Run("test", storage=url, seed=5, **(saves or {})), Store(url), strategy.connect(), Notice())
    callbacks = globals()[kind](files_in or url)
    model = build()
    try:
        history = attempt.fit(
            model, X, Y, batch_size=8, epochs=EPOCHS, validation_split=0.2, verbose=0, callbacks=[*callbacks, Interrupt(moment)]
        )
    except Interrupted as interrupted:
        attempt.abandon()
        return str(interrupted)
    attempt.finish(None, {})
    own, alone, _, plateau, stopping, _, best, *_ = callbacks
    left: dict[str, Any] = {
        "history": history.history,
        "variables": [keras.ops.convert_to_numpy(v).tolist() for v in (*model.variables, *model.optimizer.variables)],
        "own": own.seen,
        "plateau": (plateau.wait, plateau.best, plateau.cooldown_counter),
        "stopping": (stopping.wait, stopping.best, stopping.stopped_epoch, stopping.best_epoch),
        "best": best.best,
        "classes": [type(callback).__module__.partition(".")[0] for callback in callbacks],
    }
    if attempt.council.index == 0:
        left |= {"alone": alone.sums, "files": files(url), "events": events(url)}
    return left


class Drifting(keras.callbacks.Callback):
    """An author's that sets another rate on each worker."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = 0.05 * (1 + self.index)


def drift() -> None:
    """Trains with it. Collective: every worker calls this."""
    index = Council(strategy.connected()).index
    keras.utils.set_random_seed(5)
    service.fit(build(), X, Y, epochs=1, verbose=0, callbacks=[Drifting(index)])


class Saves(keras.callbacks.Callback):
    """An author's that saves on every worker, and evaluates."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder, self.losses = folder, []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.save(f"{self.folder}/whole.keras")
        self.model.save_weights(f"{self.folder}/only.weights.h5")
        self.model.export(f"{self.folder}/served", verbose=False)
        self.losses.append((self.model.evaluate(X, Y, verbose=0, return_dict=True)["loss"], logs["val_loss"]))


def save(folder: str, on_replicas: bool = False) -> list[tuple[float, float]]:
    """Trains with it, validated by all rows; returns its losses beside the log's. Collective: every worker calls this."""
    keras.utils.set_random_seed(5)
    with mirrored().scope() if on_replicas else contextlib.nullcontext():
        model = build()
    saves = Saves(folder)
    service.fit(model, X, Y, batch_size=8, epochs=2, verbose=0, validation_data=(X, Y), callbacks=[saves])
    return saves.losses


def files(url: str) -> dict[str, Any]:
    """Returns what the callbacks' files hold, by path; of event files only that they are there."""
    folder = pathlib.Path(url)
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*")):
        if path.suffix == ".h5":
            found[path.name] = weights(path)
        elif path.suffix in (".csv", ".json") and path.name != "run.json":
            found[path.name] = path.read_text()
    return found


def weights(path: pathlib.Path) -> dict[str, list[Any]]:
    """Returns the arrays in a .h5 file by their places."""
    found: dict[str, list[Any]] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()].tolist()}) if isinstance(item, h5py.Dataset) else None)
    return found


def events(url: str) -> list[tuple[str, int, str, Any]]:
    """Returns (folder, step, tag, value) of every event in all files, in order of step and tag, but not of how fast it went."""
    found = []
    for path in sorted(pathlib.Path(url).glob("logs/**/events.*")):
        for event in EventFileLoader(str(path)).Load():
            kind = path.parent.name
            if event.graph_def:
                found.append((kind, event.step, "graph", True))
            for value in event.summary.value:
                if value.tag not in SPEEDS:
                    content = make_ndarray(value.tensor).tolist() if value.HasField("tensor") else None
                    about = True if value.tag in ("_hparams_/session_start_info", "keras", "__run_graph__") else content
                    found.append((kind, event.step, value.tag, about))
    return sorted(found, key=lambda event: event[:3])
