"""Commits checkpoints of everything a run needs to go on."""

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import keras

from service.callbacks.divergence import Divergence
from service.callbacks.watching import is_authors
from service.cluster.metrics import Gauges
from service.cluster.notice import Notice
from service.policies.saving import SavePolicy
from service.training import plain
from service.training.recording import Pace
from service.training.saver import Saver
from service.training.state import callback_state, snapshot, unkept


class Checkpoints(keras.callbacks.Callback):
    """Saves when the policy says so, and what the stage leaves when it ends.

    The two differ: with the first one training goes on, while the end of training may put
    averaged or best weights into the model. It stands behind all callbacks whose state it saves.

    Attributes:
        everyone: all callbacks of this fit, whose state is saved with the model's.
        identity: what must be the same where another attempt goes on.
        pace: of the epoch's steps; the loop gives it.
    """

    def __init__(
        self,
        saver: Saver,
        policy: SavePolicy,
        stage: int,
        is_chief: bool,
        notice: Notice,
        divergence: Divergence,
        gauges: Gauges | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._notice, self._divergence, self._gauges = notice, divergence, gauges
        self.pace = Pace()
        self._saver, self._policy, self._stage, self._is_chief, self._clock = saver, policy, stage, is_chief, clock
        self.everyone: list[Any] = []
        self._given: list[dict[str, Any]] = []
        self.identity: dict[str, Any] = {}
        self._epoch = self._batch = self._step = 0
        self._is_asked = self._is_leaving = self._has_told = False
        self._saved_at = clock()

    def get_state(self) -> dict[str, Any]:
        """Returns the losses by which the next ones are judged; what else this callback knows is in the checkpoint already."""
        return {"recent": [*self._divergence.recent]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what `get_state` returned."""
        self._divergence.recent.extend(state["recent"])

    def begin(self, body: Mapping[str, Any]) -> None:
        """Tells the place of the checkpoint that training goes on from."""
        self._epoch, self._batch, self._step = body["epoch"], body["batch"], body["step"]
        self._saver.committed = self._step

    def wishes(self) -> tuple[bool, bool]:
        """Whether this worker wishes a checkpoint after the next step, and to leave; only the chief looks at the clock."""
        aged = self._is_chief and (self._policy.is_due_by_age(self._clock() - self._saved_at) or self._saver.wants())
        return aged, self._notice.is_given()

    def hear(self, leave: bool) -> None:
        """A worker wished a checkpoint after the step that was just taken, or that all leave with one."""
        self._is_asked, self._is_leaving = True, leave

    def judge(self, epoch: int, batch: int, loss: float | None) -> None:
        """Looks at the loss of the step just taken. Collective where training has diverged: every worker calls this."""
        self._divergence.judge(self._step + 1, epoch, batch, loss)

    def leave(self) -> NoReturn:
        """Commits what was saved and ends the attempt. Collective: every worker calls this."""
        self._saver.leave(f"epoch {self._epoch + 1}, step {self._step}", self._notice.is_end())

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._step += 1
        self._batch = batch + 1
        if self._gauges is not None:
            self._gauges.stepped(self._step, logs, self.pace)
        self._is_asked = self._is_asked or self._policy.is_due_at_step(self._step)
        # After an epoch's last batch the checkpoint waits for the epoch's end, which is the same step,
        # unless there is no time to wait.
        # A stream's epoch may end anywhere.
        is_last = self.params["steps"] is not None and self._batch >= self.params["steps"]
        if self._is_asked and (not is_last or self._is_leaving):
            self._save(in_full=self._is_leaving)

    def watch(self, everyone: list[Any]) -> None:
        """Takes the callbacks whose state is saved, as the job made them."""
        self.everyone = everyone
        self._given = [copy.deepcopy(_attributes(callback)) for callback in everyone]

    def on_train_begin(self, logs: Any = None) -> None:
        # The last of the callbacks to begin, and before any state is put back.
        begun = map(_attributes, self.everyone)
        self._given = [plain.unchanged(known, given) for known, given in zip(begun, self._given, strict=True)]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._batch = epoch + 1, 0
        self.model.stop_training = self._saver.agree(bool(self.model.stop_training))
        is_last = self._epoch == self.params["epochs"] or self.model.stop_training
        if self._is_asked or is_last or self._policy.is_due_at_epoch(self._epoch):
            metrics = {k: v for k, v in (logs or {}).items() if isinstance(v, float)}
            self._save(metrics, in_full=is_last or self._is_leaving)

    def on_train_end(self, logs: Any = None) -> None:
        self._save(final=True, in_full=True)
        self._saver.settle()

    def _save(self, metrics: Mapping[str, float] | None = None, final: bool = False, in_full: bool = False) -> None:
        self._tell_what_is_not_kept()
        tensors, state = snapshot({"": self.model}, self.everyone, self._given)
        state["stopping"] = bool(self.model.stop_training)
        place = {"stage": self._stage, "step": self._step, "epoch": self._epoch, "batch": self._batch}
        place["diverged"] = self._divergence.has_diverged
        body = {**place, "final": final, "metrics": metrics or {}, "identity": self.identity, "state": state}
        self._saver.save(tensors, body, in_full)
        self._is_asked, self._saved_at = False, self._clock()

    def _tell_what_is_not_kept(self) -> None:
        """Names once what of the author's callbacks no checkpoint holds."""
        for callback in () if self._has_told or not self._is_chief else filter(is_authors, self.everyone):
            if lost := unkept(callback):
                print(
                    f"Checkpoints do not hold what {type(callback).__name__} keeps in {', '.join(lost)}: a run that goes on "
                    "begins with what the job gives it. Keep numbers, text, arrays, lists and dicts, or define get_state and "
                    "set_state.",
                    flush=True,
                )
        self._has_told = True


def _attributes(callback: Any) -> dict[str, Any]:
    """Returns the plain attributes of a callback that does not say itself what its state is."""
    return {} if hasattr(callback, "get_state") else callback_state(callback)
