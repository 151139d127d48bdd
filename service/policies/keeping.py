"""Which checkpoints stay."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Mark(NamedTuple):
    """What the policy looks at in a checkpoint: its number, its step, the metrics there by name."""

    number: int
    step: int
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class KeepPolicy:
    """The newest few stay, the best by a metric, and every so many steps one for good.

    Attributes:
        last: how many of the newest stay, 1 or more.
        best: the metric by whose value one more stays; None keeps none for its value.
        mode: "min" where a smaller value is better, "max" where a larger one is.
        every_steps: a checkpoint at a multiple of so many steps stays for good.
    """

    last: int = 3
    best: str | None = None
    mode: str = "min"
    every_steps: int | None = None

    def kept(self, checkpoints: Sequence[Mark]) -> set[int]:
        """Returns the numbers that stay.

        Args:
            checkpoints: newest first. One that lacks the metric, or has NaN for it, is never the
                best; of equal ones the newest is.
        """
        stay = {checkpoint.number for checkpoint in checkpoints[: self.last]}
        if self.every_steps is not None:
            stay |= {checkpoint.number for checkpoint in checkpoints if checkpoint.step % self.every_steps == 0}
        rated = [c for c in checkpoints if self.best is not None and not math.isnan(c.metrics.get(self.best, math.nan))]
        if rated and self.best is not None:
            name, pick = self.best, min if self.mode == "min" else max
            stay.add(pick(rated, key=lambda checkpoint: checkpoint.metrics[name]).number)
        return stay


def policy_of(last: int, best: str | None, every_steps: int | None) -> KeepPolicy:
    """Returns the policy of a run's options; "max:val_accuracy" means that a larger value is better."""
    name = None if best is None else best.removeprefix("max:")
    return KeepPolicy(last, name, "min" if best == name else "max", every_steps)
