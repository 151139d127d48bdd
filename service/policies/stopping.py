"""When training stops early, and which epoch was the best."""

import dataclasses
from typing import NamedTuple

from service.policies.improving import Better


class Stopping(NamedTuple):
    """What is known after an epoch.

    Attributes:
        wait: epochs since the watched number was good enough.
        best: its best value; None before the first.
        best_epoch: the epoch, from 0, of the best value.
        stopped_epoch: the epoch, from 0, after which training stopped; 0 while it goes on.
    """

    wait: int = 0
    best: float | None = None
    best_epoch: int = 0
    stopped_epoch: int = 0


@dataclasses.dataclass(frozen=True)
class StopPolicy:
    """Training stops after `patience` epochs in which the watched number did not get better.

    Attributes:
        better: what is better.
        patience: how many such epochs.
        baseline: waiting ends only with a number that is better than this; None takes any best one.
        start_from_epoch: epochs, from 0, that are not looked at.
    """

    better: Better
    patience: int = 0
    baseline: float | None = None
    start_from_epoch: int = 0

    def after(self, known: Stopping, epoch: int, value: float) -> tuple[Stopping, bool]:
        """Returns what is known after an epoch, and whether it was the best; Keras never stops after the first one."""
        if epoch < self.start_from_epoch:
            return known, False
        wait = known.wait + 1
        if self.better.than(value, known.best):
            is_enough = self.baseline is None or self.better.than(value, self.baseline)
            return known._replace(wait=0 if is_enough else wait, best=value, best_epoch=epoch), True
        is_over = wait >= self.patience and epoch > 0
        return known._replace(wait=wait, stopped_epoch=epoch if is_over else known.stopped_epoch), False
