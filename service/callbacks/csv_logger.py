"""Writes each epoch's logs into a table, whole at any moment."""

import csv
import io
from collections.abc import Iterable
from typing import Any

import keras

from service.callbacks.setting import Setting


class CSVLogger(keras.callbacks.CSVLogger):
    """Keras's CSVLogger, with its arguments; the table may lie in any storage, and a relative path means the run's folder.

    The chief writes the table whole, off the training thread. The rows are in every checkpoint,
    so a run that goes on after a crash neither repeats nor loses one.
    """

    _joined: Setting | None = None

    def join(self, setting: Setting) -> None:
        """Is told where to write; refuses a path that cannot be."""
        self._joined = setting
        self._before, self._rows = "", list[list[Any]]()
        setting.place_of(self.filename, "CSVLogger")

    @property
    def _setting(self) -> Setting:
        if self._joined is None:
            self.join(Setting())
        return self._joined or Setting()

    def get_state(self) -> dict[str, Any]:
        """Returns what a run that goes on must know."""
        return {"before": self._before, "keys": self.keys, "rows": self._rows}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what `get_state` returned."""
        self._before, self.keys, self._rows = state["before"], state["keys"], state["rows"]

    def on_train_begin(self, logs: Any = None) -> None:
        self._before, self._rows = "", list[list[Any]]()
        self.keys = None
        if self.append and self._setting.is_chief:
            self._before = self._setting.read(*self._setting.place_of(self.filename, "CSVLogger")).decode()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        if self.keys is None:
            keys = sorted(logs)
            self.keys = keys if any(key.startswith("val_") for key in keys) else [*keys, *(f"val_{key}" for key in keys)]
        self._rows.append([epoch, *(_cell(logs.get(key, "NA")) for key in self.keys)])
        if self._setting.is_chief:
            table = self._table()
            folder, name = self._setting.place_of(self.filename, "CSVLogger")
            self._setting.views(folder).put(name, lambda: table)

    def on_train_end(self, logs: Any = None) -> None:
        if self._setting.run is None:
            self._setting.close()

    def _table(self) -> bytes:
        out = io.StringIO()
        table = csv.writer(out, delimiter=self.sep)
        if not self._before:
            table.writerow(["epoch", *(self.keys or [])])
        table.writerows(self._rows)
        return (self._before + out.getvalue()).encode()


def _cell(value: Any) -> Any:
    """Returns a value as Keras writes it: a plain one as it is, several in brackets."""
    if isinstance(value, Iterable) and not isinstance(value, str) and getattr(value, "ndim", 1) != 0:
        return f'"[{", ".join(map(str, value))}]"'
    return value.item() if hasattr(value, "item") else value
