"""Keras's BackupAndRestore, which a run's own checkpoints replace."""

from typing import Any

import keras

from service.callbacks.setting import Setting
from service.errors import RunInvalid


class BackupAndRestore(keras.callbacks.BackupAndRestore):
    """In a run it does nothing: the run's checkpoints bring back more, on any number of workers.

    Without a run, on one worker, it is Keras's.
    """

    _joined: Setting | None = None

    def join(self, setting: Setting) -> None:
        """Is told of the run; refuses several workers without one."""
        self._joined = setting
        if setting.run is not None:
            setting.say(
                f"BackupAndRestore writes nothing to {self.backup_dir}: the run's checkpoints in {setting.url} bring "
                "everything back. How often they are made is the Run's to say (save_every_steps, save_every_epochs)."
            )
        elif setting.workers > 1:
            raise RunInvalid(
                f"BackupAndRestore on {setting.workers} workers: they would tear each other's files. Train with service.train, "
                "whose runs go on where they were."
            )

    def on_train_begin(self, logs: Any = None) -> None:
        if self._is_keras_s:
            super().on_train_begin(logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._is_keras_s:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._is_keras_s:
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        if self._is_keras_s:
            super().on_train_end(logs)

    @property
    def _is_keras_s(self) -> bool:
        return self._joined is None or self._joined.run is None
