"""What earlier attempts left of a stage: where to go on, and what must be as it was."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from service.cluster.consensus import Council
from service.errors import RunInvalid
from service.storage import detours, restore
from service.storage.commits import CommitLog
from service.storage.store import Store
from service.training import believed
from service.training.start import Start


class Earlier:
    """Looks into the run's folder, the same way on all workers.

    Args:
        store: the run's.
        council: the workers of this attempt.
        opened: the number of the log's entry that opened it.
    """

    def __init__(self, store: Store, council: Council, opened: int) -> None:
        self.store, self.council, self._opened = store, council, opened

    def newest(self, number: int, end: int, any_kind: bool = False) -> tuple[bool, restore.Restored | None]:
        """Returns whether an earlier attempt trained all of the stage, and the checkpoint to take up.

        Collective: every worker calls this, and gets the same.

        `end` is the last epoch, or step, that is asked for now. A hand-written loop leaves what it
        would go on with, so its checkpoints are of one kind.
        """
        log = CommitLog(self.store, known=self._opened)
        log.refresh()
        result = log.results().get(number) if self.council.index == 0 else None
        is_over = self.council.chief(result is not None and (result.get("stopped") or result.get("epochs", 0) >= end))
        kind, without = None if any_kind else is_over, detours.left_behind(log)
        found = restore.newest(log, number, kind, without) if self.council.index == 0 else None
        place = self.council.chief(None if found is None else found.entry.number)
        if place is not None and found is None:
            found = restore.one(log, place)
        if found is not None:
            believed.check(found)
        for entry, problem in (found.skipped if found else {}).items():
            print(f"Checkpoint {entry} was skipped: {problem}", flush=True)
        return is_over, found

    def left_out(self, number: int, log: CommitLog | None) -> Callable[[int, int], bool]:
        """Returns what tells of an epoch and a batch whether the stage leaves it out; `log` is the chief's.

        Collective: every worker calls this.
        """
        ranges = self.council.chief(detours.skipped(log, number) if log is not None else None)
        return lambda epoch, batch: any(first <= [epoch, batch] <= last for first, last in ranges)

    def check_identity(self, number: int, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Refuses to go on with other data or another plan than the stage was begun with; RunInvalid names them."""
        changed = [name for name, value in now.items() if name in then and then[name] != value]
        if changed:
            raise RunInvalid(
                f"Stage {number} of the run {self.store.url} was begun with other {' and '.join(changed)}: "
                + "; ".join(f"{name} was {then[name]!r}, now {now[name]!r}" for name in changed)
                + ". Give what it was begun with to go on, or another name to begin a new run."
            )


def take_over(model: Any, stateful: list[Any], begun: Start) -> None:
    """Leaves the model and the callbacks as `fit` left them in the attempt that trained the stage."""
    for callback in stateful:
        callback.set_model(model)
    model.history = next(callback for callback in stateful if isinstance(callback, keras.callbacks.History))
    model.history.on_train_begin()
    begun.restore()
    model.stop_training = begun.is_stopped
