"""One line an epoch, for logs that are no terminal."""

import time
from typing import Any

import keras


class EpochLines(keras.callbacks.Callback):
    """Prints the epoch, its time and its metrics when the epoch ends."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seconds = time.monotonic() - self._began
        values = "  ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items() if isinstance(value, float))
        print(f"epoch {epoch + 1}/{self.params['epochs']}  {seconds:.2f} s  {values}", flush=True)
