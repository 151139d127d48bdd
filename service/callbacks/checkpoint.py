"""Commits checkpoints of everything a run needs to go on."""

from typing import Any

import keras

from service.policies.saving import SavePolicy
from service.training.saver import Saver
from service.training.state import snapshot


class Checkpoints(keras.callbacks.Callback):
    """Saves after the epochs that the policy names, and what the stage leaves when it ends.

    The two differ: with the first one training goes on for more epochs, while the end of
    training may put averaged or best weights into the model.

    Attributes:
        everyone: all callbacks of this fit, whose state is saved with the model's.
    """

    def __init__(self, saver: Saver, policy: SavePolicy, stage: int) -> None:
        super().__init__()
        self._saver, self._policy, self._stage = saver, policy, stage
        self.everyone: list[Any] = []
        self._epochs_done = 0

    def get_state(self) -> dict[str, Any]:
        """Nothing: what this callback knows is in the checkpoint already."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to put back."""

    def begin(self, epochs_done: int) -> None:
        """Tells how many epochs the checkpoint holds that training goes on from."""
        self._epochs_done = epochs_done

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._epochs_done = epoch + 1
        is_last = self._epochs_done == self.params["epochs"] or self.model.stop_training
        if is_last or self._policy.is_due(self._epochs_done):
            self._save(final=False)

    def on_train_end(self, logs: Any = None) -> None:
        self._save(final=True)
        self._saver.wait()

    def _save(self, final: bool) -> None:
        tensors, state = snapshot(self.model, self.everyone)
        state["stopping"] = bool(self.model.stop_training)
        body = {
            "stage": self._stage,
            "step": int(self.model.optimizer.iterations.numpy()),
            "epoch": self._epochs_done,
            "final": final,
            "state": state,
        }
        self._saver.save(tensors, body)
