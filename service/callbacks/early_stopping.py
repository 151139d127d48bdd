"""Stops the training when a number no longer gets better."""

from typing import Any

import keras

from service.callbacks.watching import better, refusing_unknown, watched
from service.policies.stopping import Stopping, StopPolicy


@refusing_unknown({})
class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's EarlyStopping, with its arguments and attributes; `mode="auto"` as Keras 2 took it from the name.

    Every worker decides by the same global numbers. What it knows, the best weights too, is in
    every checkpoint, so a run that goes on after a crash stops where it would have stopped. In
    an epoch without the number, as one without validation, nothing is counted.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        self._put(Stopping())
        self.best_weights = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        value = watched(self, logs)
        if value is None:
            return
        policy = StopPolicy(better(self), self.patience, self.baseline, self.start_from_epoch)
        known = Stopping(self.wait, self.best, self.best_epoch, self.stopped_epoch)
        after, is_best = policy.after(known, epoch, value)
        self._put(after)
        if is_best and self.restore_best_weights:
            self.best_weights = self.model.get_weights()
        if after.stopped_epoch != known.stopped_epoch:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        if self.stopped_epoch > 0 and self.verbose > 0:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping", flush=True)
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose > 0:
                print(f"The weights are those of epoch {self.best_epoch + 1}, the best one.", flush=True)
            self.model.set_weights(self.best_weights)

    def _put(self, known: Stopping) -> None:
        self.wait, self.best, self.best_epoch, self.stopped_epoch = known
