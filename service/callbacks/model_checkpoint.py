"""Saves the model, or its weights, at epochs or steps, to any storage."""

import math
from typing import Any

import keras

from service import keras2
from service.callbacks.setting import Setting
from service.callbacks.watching import MODES, better, watched
from service.errors import OptionUnknown, RunInvalid, did_you_mean
from service.training import models

FORMATS = ("keras", "weights", "tf")
_OLD_SUFFIXES = (".hdf5", ".h5", ".weights", ".weight", ".model", ".ckpt", ".tf", ".pb", ".pkl")


class ModelCheckpoint(keras.callbacks.ModelCheckpoint):
    """Keras's ModelCheckpoint, with its arguments and attributes; a file is there whole or not at all.

    The chief writes, off the training thread; storage that is down for a while costs a warning.
    What was best is in every checkpoint of the run, so a run that goes on after a crash does not
    overwrite a better file.

    Args:
        filepath: where to save; a relative path means the run's folder, and a URL any storage that
            fsspec opens. It may hold {epoch}, {batch} and the names in the logs.
        save_freq: "epoch", or a number of steps.
        period: Keras 2's: so many epochs.
        save_format: "keras" (a whole model), "weights" or "tf" (a SavedModel to serve). Without it the
            suffix and save_weights_only say so.
        The others are Keras's.

    Raises:
        RunInvalid, OptionUnknown: the arguments do not go together.
    """

    period = 1
    save_format: str | None = None
    epochs_since_last_save = 0
    best: float | None
    _joined: Setting | None = None
    _current_epoch = 0

    def __init__(
        self,
        filepath: Any,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: Any = "epoch",
        initial_value_threshold: float | None = None,
        period: int | None = None,
        save_format: str | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            known = "monitor verbose save_best_only save_weights_only mode save_freq initial_value_threshold period save_format"
            raise OptionUnknown(
                f'ModelCheckpoint has no argument "{min(unknown)}". {did_you_mean(min(unknown), known.split())}'
            )
        self._check(mode, save_freq, period, save_format)
        super(keras.callbacks.ModelCheckpoint, self).__init__(monitor, mode, initial_value_threshold)
        self.verbose, self.save_best_only, self.save_weights_only = verbose, save_best_only, save_weights_only
        self.filepath, self.save_freq = str(filepath), save_freq
        self.period, self.save_format = period or 1, save_format
        self._batches_seen_since_last_saving, self._last_batch_seen = 0, None

    def _check(self, mode: str, save_freq: Any, period: int | None, save_format: str | None) -> None:
        if mode not in MODES:
            raise RunInvalid(f"ModelCheckpoint: mode={mode!r}: expected one of {', '.join(MODES)}.")
        if save_format is not None and save_format not in FORMATS:
            raise RunInvalid(f"ModelCheckpoint: save_format={save_format!r}: expected one of {', '.join(FORMATS)}.")
        for name, value in (("save_freq", save_freq), ("period", period)):
            if value not in ("epoch", None) and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise RunInvalid(f'ModelCheckpoint: {name}={value!r}: expected a whole number, 1 or more, or "epoch".')
        if period is not None and save_freq != "epoch":
            raise RunInvalid(
                f"ModelCheckpoint: period={period} counts epochs and save_freq={save_freq} steps. Give one of them."
            )

    def join(self, setting: Setting) -> None:
        """Is told where to write; refuses a path that cannot be."""
        self._joined = setting
        target, kind = named(self.filepath, self.save_weights_only, self.save_format)
        if target != self.filepath:
            setting.say(f"ModelCheckpoint writes {target} for {self.filepath}: Keras 3 keeps {kind} under that suffix.")
        setting.place_of(target, "ModelCheckpoint")
        if self.save_best_only and self.save_freq != "epoch" and self.monitor.startswith("val_"):
            raise RunInvalid(
                f'ModelCheckpoint: save_best_only watches "{self.monitor}", which is there at the end of an epoch, but '
                f'save_freq={self.save_freq} saves within. Give save_freq="epoch", or watch a training metric such as "loss".'
            )

    @property
    def _setting(self) -> Setting:
        """Where to write; in Keras's own fit, which tells nothing, the working folder."""
        if self._joined is None:
            self.join(Setting())
        return self._joined or Setting()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._current_epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._should_save_on_batch(batch):
            self._save(self._current_epoch, batch, logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.save_freq != "epoch":
            return
        self.epochs_since_last_save += 1
        if self.epochs_since_last_save >= self.period:
            self.epochs_since_last_save = 0
            self._save(epoch, None, logs or {})

    def on_train_end(self, logs: Any = None) -> None:
        if self._setting.run is None:
            self._setting.close()

    def _save(self, epoch: int, batch: int | None, logs: dict[str, Any]) -> None:
        target, kind = named(self.filepath, self.save_weights_only, self.save_format)
        path = target.format_map(_Fields(logs, epoch=epoch + 1, batch=1 if batch is None else batch + 1))
        note = f"the model is saved to {'/'.join(self._setting.place_of(path, 'ModelCheckpoint'))}"
        if self.save_best_only:
            value = watched(self, logs)
            if value is None:
                return
            before = "nothing" if self.best is None else f"{self.best:.5f}"
            if not better(self).than(value, self.best):
                return self._say(f"\nEpoch {epoch + 1}: {self.monitor} is no better than {before}")
            note = f"{self.monitor} went from {before} to {value:.5f}, {note}"
            self.best = value
        self._say(f"\nEpoch {epoch + 1}: {note}")
        if self._setting.is_chief:
            self._write(path, kind)

    def _write(self, path: str, kind: str) -> None:
        folder, name = self._setting.place_of(path, "ModelCheckpoint")
        views = self._setting.views(folder)
        if kind == "tf":
            views.put_folder(name, models.exported(self.model))
        else:
            content = models.to_bytes(self.model, _suffix(name))
            views.put(name, lambda: content)

    def _say(self, sentence: str) -> None:
        if self.verbose > 0:
            self._setting.say(sentence)


class _Fields(dict[str, Any]):
    """The values for a path's fields; an epoch without validation has NaN for what only validation gives."""

    def __init__(self, logs: dict[str, Any], **place: int) -> None:
        super().__init__(logs | place)

    def __missing__(self, name: str) -> Any:
        return self.get(keras2.monitor(name, self), math.nan)


def named(filepath: str, weights_only: bool, save_format: str | None) -> tuple[str, str]:
    """Returns the path with the suffix of today, and which format that is: "keras", "weights" or "tf".

    Keras 2 took any name: "model.weight" becomes "model.weights.h5" or "model.keras".
    """
    kind = save_format or ("weights" if weights_only else "keras")
    if kind == "tf":
        return filepath.rstrip("/"), kind
    right = (".weights.h5",) if kind == "weights" else (".keras", ".h5")
    if filepath.endswith(right):
        return filepath, kind
    stem = next((filepath[: -len(old)] for old in _OLD_SUFFIXES if filepath.endswith(old)), filepath)
    return stem + right[0], kind


def _suffix(name: str) -> str:
    return next(suffix for suffix in (".weights.h5", ".keras", ".h5") if name.endswith(suffix))
