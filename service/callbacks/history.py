"""The history as history.json and history.csv, one row an epoch."""

import csv
import io
import json
from typing import Any

import keras

from service.callbacks.setting import Setting
from service.storage import layout
from service.training.state import history_of


class HistoryFiles(keras.callbacks.Callback):
    """Rewrites both files whole after each epoch; it stands behind Keras's History.

    Attributes:
        rows: each epoch's logs with its number, from 1; part of the run's state.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self._setting = setting
        self.rows: list[dict[str, Any]] = []

    def get_state(self) -> dict[str, Any]:
        """Returns what a run that goes on must know."""
        return {"rows": self.rows}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what `get_state` returned."""
        self.rows = state["rows"]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, float | int)}
        self.rows.append({"epoch": epoch + 1, **numbers})
        if self._setting.is_chief:
            views, stage = self._setting.views(self._setting.url), self._setting.stage
            history, table = json.dumps(history_of(self.model), indent=1).encode(), _table(self.rows).encode()
            views.put(layout.history_json(stage), lambda: history)
            views.put(layout.history_csv(stage), lambda: table)


def _table(rows: list[dict[str, Any]]) -> str:
    """Returns CSV; a metric that is not due every epoch leaves its cell empty."""
    out = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = csv.DictWriter(out, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return out.getvalue()
