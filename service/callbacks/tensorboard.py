"""Scalars for TensorBoard, in the run's logs folder, on global steps."""

import pathlib
import tempfile
from typing import Any

import keras
import tensorflow as tf

from service.storage import layout, urls
from service.storage.store import Store
from service.storage.views import Views


class Scalars(keras.callbacks.Callback):
    """Writes each epoch's metrics under logs/train and logs/validation; the chief's is the one writer.

    A validation metric has the name of its training metric, so TensorBoard draws both in one
    chart. In a folder the event files grow in place; for any other storage they grow beside the
    process and are copied whole, off the training thread.
    """

    def __init__(self, store: Store, views: Views, stage: int, is_chief: bool) -> None:
        super().__init__()
        self._store, self._views, self._stage, self._is_chief = store, views, stage, is_chief
        self._in_place = urls.is_folder(store.url)
        self._writers: dict[str, Any] = {}

    def get_state(self) -> dict[str, Any]:
        """Nothing: the event files are a view."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to put back."""

    def on_train_begin(self, logs: Any = None) -> None:
        if not self._is_chief:
            return
        root = urls.folder_of(self._store.url) if self._in_place else tempfile.mkdtemp(prefix="samestep-logs-")
        self._root = pathlib.Path(root)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._is_chief:
            return
        step = int(self.model.optimizer.iterations.numpy())
        logs = {"learning_rate": float(self.model.optimizer.learning_rate), **(logs or {})}
        for name, value in logs.items():
            kind = "validation" if name.startswith("val_") else "train"
            if isinstance(value, float):
                with self._writer(kind).as_default():
                    tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value, step=step)
        for writer in self._writers.values():
            writer.flush()
        self._mirror()

    def on_train_end(self, logs: Any = None) -> None:
        for writer in self._writers.values():
            writer.close()
        if self._is_chief:
            self._mirror()

    def _writer(self, kind: str) -> Any:
        if kind not in self._writers:
            self._writers[kind] = tf.summary.create_file_writer(str(self._root / layout.logs(self._stage, kind)))
        return self._writers[kind]

    def _mirror(self) -> None:
        if self._in_place:
            return
        for path in self._root.rglob("events.*"):
            self._views.put(path.relative_to(self._root).as_posix(), path.read_bytes)
