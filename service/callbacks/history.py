"""The history as history.json and history.csv, one row an epoch."""

import csv
import io
import json
from typing import Any

import keras

from service.storage import layout
from service.storage.views import Views
from service.training.state import history_of


class HistoryFiles(keras.callbacks.Callback):
    """Rewrites both files whole after each epoch; it stands behind Keras's History.

    Attributes:
        rows: each epoch's logs with its number, from 1; part of the run's state.
    """

    def __init__(self, views: Views, stage: int, is_chief: bool) -> None:
        super().__init__()
        self._target = (views, stage, is_chief)
        self.rows: list[dict[str, Any]] = []

    def get_state(self) -> dict[str, Any]:
        """Returns what a run that goes on must know."""
        return {"rows": self.rows}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what `get_state` returned."""
        self.rows = state["rows"]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        views, stage, is_chief = self._target
        numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, float | int)}
        self.rows.append({"epoch": epoch + 1, **numbers})
        if is_chief:
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
