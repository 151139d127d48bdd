"""A run in TensorBoard: the options of its one writer, and the moments at which it writes."""

import contextlib
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from service.board import graphs, histograms, hparams, projector
from service.board.events import Events
from service.callbacks.learning_rate import rates_of
from service.callbacks.setting import Setting
from service.errors import OptionUnknown, RunInvalid, did_you_mean
from service.exact.replica import current
from service.storage import layout, urls
from service.storage.store import Store
from service.training.recording import Pace

_ONLY_KERAS_2 = ("batch_size", "write_grads", "embeddings_layer_names", "embeddings_data")
_KERAS_3 = (
    *("log_dir", "histogram_freq", "write_graph", "write_images", "write_steps_per_second", "update_freq"),
    *("profile_batch", "embeddings_freq", "embeddings_metadata"),
)


class TensorBoard(keras.callbacks.TensorBoard):
    """Keras's TensorBoard, with its arguments and those of Keras 2; the chief writes.

    In a run the events go into the run's logs folder, in any storage, whatever log_dir says. All are
    on the global step (the optimizer's updates), none is there twice or missing after a restart.
    tf.summary in layers and callbacks goes to the same files; a layer sees the chief's rows.

    Args:
        update_freq: "epoch"; "batch" or a number of steps between a batch's numbers. Beside an argument that
            only Keras 2 has, the number counts samples, as there.
        batch_size: rows at a time for the layers' outputs on validation data.
        write_grads: histograms of the gradients of the whole batch, of the first step of the epoch.
        embeddings_layer_names, embeddings_data: the vectors are these layers' outputs for the data; without
            data they are the layers' tables.
        The others are Keras's.

    Raises:
        OptionUnknown, RunInvalid: there is no such argument, or its value cannot be meant.
    """

    batch_size = 32
    write_grads = False
    embeddings_layer_names: Any = None
    embeddings_data: Any = None
    counts_samples = False
    _joined: Setting | None = None

    def __init__(self, log_dir: str = "logs", *args: Any, **kwargs: Any) -> None:
        old = {name: kwargs.pop(name) for name in _ONLY_KERAS_2 if name in kwargs}
        for name in kwargs.keys() - set(_KERAS_3):
            raise OptionUnknown(f'TensorBoard has no argument "{name}". {did_you_mean(name, (*_KERAS_3, *_ONLY_KERAS_2))}')
        update_freq = kwargs.get("update_freq", "epoch")
        if update_freq not in ("batch", "epoch") and (not isinstance(update_freq, int) or update_freq < 1):
            raise RunInvalid(f'TensorBoard: update_freq={update_freq!r}: expected "epoch", "batch", or a whole number.')
        super().__init__(log_dir, *args, **kwargs)
        for name, value in old.items():
            setattr(self, name, value)
        self.counts_samples = bool(old) and isinstance(update_freq, int)

    def join(self, setting: Setting) -> None:
        """Is told where to write."""
        self._joined = setting
        self._has_begun = False
        self._samples = self._samples_written = 0
        self._pace: Pace | None = None
        self._step: Any = None
        self._open = contextlib.ExitStack()
        if setting.is_chief:
            store, folder = (setting.run, layout.logs(setting.stage, "").rstrip("/")) if setting.run else self._own(setting)
            self._events = Events(store, folder, setting.views(store.url))
            setting.before_publishing(self._events.publish)
            setting.before_closing(self._open.close)  # training may be left in an error

    def _own(self, setting: Setting) -> tuple[Store, str]:
        folder, name = setting.place_of(self.log_dir, "TensorBoard")
        return Store(folder), name

    def set_model(self, model: Any) -> None:
        self._model = model
        if self._joined is None:
            self.join(Setting())

    def get_state(self) -> dict[str, Any]:
        """Returns what a run that goes on must know: which part of the event files is of the steps until now."""
        files = self._events.sizes() if self._is_chief else {}
        return {"files": files, "has_begun": self._has_begun, "samples": [self._samples, self._samples_written]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what `get_state` returned, and cuts the event files there."""
        self._has_begun, (self._samples, self._samples_written) = state["has_begun"], state["samples"]
        if self._is_chief:
            self._events.cut(state["files"])
            self._enter()

    def begin_anew(self) -> None:
        """There is no checkpoint to go on from: removes what an earlier attempt wrote."""
        if self._is_chief and self._joined is not None and self._joined.run is not None:
            self._events.cut({})

    def wants_gradients(self, batch: int) -> bool:
        """Whether the gradients of the step on the epoch's batch of this number are wanted."""
        return self.write_grads and batch == 0 and self._is_due(self._epoch, self.histogram_freq)

    def take(self, step: Any, gradients: Mapping[str, np.ndarray], pace: Pace) -> None:
        """A step was taken."""
        self._step, self._pace = step, pace
        if gradients and self._is_chief:
            self._events.write("train", histograms.write_gradients, gradients, self._now)

    def on_train_begin(self, logs: Any = None) -> None:
        self._samples = self._samples_written = 0
        self._has_begun = False
        if self._is_chief and not (self._joined and self._joined.is_resuming):
            self._enter()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._show(True)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.update_freq != "epoch":
            self._show(self._is_batch_due(self._now + 1))
        if self._is_chief and self._start_batch and self._now + 1 == self._start_batch:
            tf.profiler.experimental.start(str(self._events.root / "train"))
            self._open.callback(self._stop_profile)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        rows = self._pace.last_rows if self._pace else 0
        self._samples += rows
        if self.update_freq == "epoch":
            self._show(False)
        elif self._is_chief and self._is_batch_due(self._now):
            self._samples_written = self._samples
            self._events.scalars("train", self._numbers("batch", {**(logs or {}), **self._rates()}), self._now)
            self._events.mirror()
        if not self._has_begun:
            self._has_begun = True
            if self._is_chief:
                self._write_begin()
        if self._is_chief and self._stop_batch and self._now >= self._stop_batch:
            self._stop_profile()

    def on_test_begin(self, logs: Any = None) -> None:
        if self._is_chief:
            self._testing = contextlib.ExitStack()
            self._testing.enter_context(self._events.writer("validation").as_default(self._iterations()))

    def on_test_end(self, logs: Any = None) -> None:
        if self._is_chief:
            self._testing.close()

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._show(batch == 0)  # one batch of each validation

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._is_chief:
            return
        trained = {name: value for name, value in (logs or {}).items() if not name.startswith("val_")}
        held_out = {name.removeprefix("val_"): value for name, value in (logs or {}).items() if name.startswith("val_")}
        self._events.scalars("train", self._numbers("epoch", {**self._rates(), **trained}) | self._speeds(), self._now)
        if held_out:
            self._events.scalars("validation", self._numbers("epoch", held_out), self._now)
        if self._is_due(epoch, self.histogram_freq):
            self._write_histograms()
        if self._is_due(epoch, self.embeddings_freq):
            self._write_embeddings()
        self._events.publish()

    def on_train_end(self, logs: Any = None) -> None:
        if not self._is_chief:
            return
        self._events.write("", hparams.write_end)
        self._open.close()
        self._events.publish()
        if self._joined is not None and self._joined.run is None:
            self._joined.close()

    @property
    def _is_chief(self) -> bool:
        return self._joined is not None and self._joined.is_chief

    @property
    def _now(self) -> int:
        return int(keras.ops.convert_to_numpy(self._iterations()))  # a strategy's scope has one for each device

    def _iterations(self) -> Any:
        return self.model.optimizer.iterations.value

    def _enter(self) -> None:
        """Has tf.summary, in layers and callbacks, write to the run's files from now on."""
        self._shows_now = True
        self._is_shown = tf.Variable(self._shows_now, trainable=False)
        self._open.enter_context(self._events.writer("train").as_default(self._iterations()))
        self._open.enter_context(tf.summary.record_if(self._shows))

    def _shows(self) -> Any:
        """Whether tf.summary writes now: in a step where that is due, always in a callback, never in its model.predict."""
        return self._is_shown.read_value() if current() is not None else tf.executing_eagerly()

    def _show(self, is_due: bool) -> None:
        if self._is_chief and hasattr(self, "_is_shown") and is_due != self._shows_now:
            self._shows_now = is_due
            self._is_shown.assign(is_due)

    def _is_due(self, epoch: int, every: int) -> bool:
        return bool(every) and epoch % every == 0

    def _is_batch_due(self, step: int) -> bool:
        if self.counts_samples:
            return self._samples - self._samples_written >= self.update_freq
        return step % self.update_freq == 0

    def _rates(self) -> dict[str, float]:
        return rates_of(getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer))

    def _numbers(self, prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
        return {f"{prefix}_{name}": float(value) for name, value in values.items() if isinstance(value, int | float)}

    def _speeds(self) -> dict[str, float]:
        """Returns how fast the epoch went; waiting for data is part of a step's time."""
        pace = self._pace
        if pace is None or not pace.steps:
            return {}
        seconds = max(pace.seconds, 1e-9)
        found = {"speed/samples_per_second": pace.rows / seconds, "speed/step_seconds": seconds / pace.steps}
        found["speed/data_wait_seconds"] = pace.waited_seconds / pace.steps
        return found | ({"epoch_steps_per_second": pace.steps / seconds} if self.write_steps_per_second else {})

    def _write_begin(self) -> None:
        setting = self._joined or Setting()
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        facts = {"optimizer": type(optimizer).__name__, **self._rates(), **setting.facts}
        self._events.write("", hparams.write_begin, facts, pathlib.PurePosixPath(setting.url).name)
        if self.write_graph:
            self._events.write("train", graphs.write_layers, self.model)
            if self._step is not None:
                self._events.write("train", graphs.write_traced, self._step.train)

    def _write_histograms(self) -> None:
        self._events.write("train", histograms.write_weights, self.model, self._now, bool(self.write_images))
        inputs = (self._joined or Setting()).validation()
        if inputs is not None and hasattr(self.model, "inputs") and self.model.inputs:
            rows = len(keras.tree.flatten(inputs)[0])
            cuts = [slice(i, i + self.batch_size) for i in range(0, rows, self.batch_size)]
            batches = [keras.tree.map_structure(lambda t, cut=cut: t[cut], inputs) for cut in cuts]
            self._events.write("validation", histograms.write_activations, self.model, batches, self._now)

    def _write_embeddings(self) -> None:
        found = projector.vectors(self.model, self.embeddings_layer_names, self.embeddings_data)
        named = self.embeddings_metadata or {}
        paths: dict[str, str] = named if isinstance(named, dict) else dict.fromkeys(found, str(named))
        if unknown := paths.keys() - found.keys():
            raise RunInvalid(f'TensorBoard: embeddings_metadata names "{min(unknown)}". {did_you_mean(min(unknown), found)}')
        metadata = {name: _read(path) for name, path in paths.items()}
        for path, content in projector.files(found, metadata).items():
            self._events.put(f"train/{path}", content)

    def _stop_profile(self) -> None:
        with contextlib.suppress(tf.errors.UnavailableError):  # it has stopped already
            tf.profiler.experimental.stop()


def _read(path: str) -> bytes:
    folder, _, name = urls.normal(path).rpartition("/")
    return Store(folder).read(name)
