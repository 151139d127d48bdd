"""When the learning rate is reduced, and to what."""

import dataclasses
import struct
from collections.abc import Sequence
from typing import NamedTuple

from service.policies.improving import Better


class Plateau(NamedTuple):
    """What is known after an epoch.

    Attributes:
        wait: epochs since the watched number got better.
        best: its best value; None before the first.
        cooldown: epochs left in which nothing is counted.
    """

    wait: int = 0
    best: float | None = None
    cooldown: int = 0


@dataclasses.dataclass(frozen=True)
class ReducePolicy:
    """The rate is multiplied by `factor` after `patience` epochs in which the watched number did not get better.

    Attributes:
        better: what is better.
        factor: less than 1.
        patience: how many such epochs.
        cooldown: epochs after a reduction in which nothing is counted.
        min_rate: the rate is never set lower.
    """

    better: Better
    factor: float = 0.1
    patience: int = 10
    cooldown: int = 0
    min_rate: float = 0.0

    def after(self, known: Plateau, value: float, rates: Sequence[float]) -> tuple[Plateau, list[float]]:
        """Returns what is known after an epoch, and the rates to train on with, one an optimizer."""
        wait, best, cooldown = known
        if cooldown > 0:
            wait, cooldown = 0, cooldown - 1
        if self.better.than(value, best):
            return Plateau(0, value, cooldown), list(rates)
        if cooldown > 0:
            return Plateau(wait, best, cooldown), list(rates)
        wait += 1
        is_above = [_float32(rate) > _float32(self.min_rate) for rate in rates]
        if wait < self.patience or not any(is_above):
            return Plateau(wait, best, cooldown), list(rates)
        reduced = [max(r * self.factor, self.min_rate) if above else r for r, above in zip(rates, is_above, strict=True)]
        return Plateau(0, best, self.cooldown), reduced


def _float32(value: float) -> float:
    """Returns the value as an optimizer's variable holds it: a rate at its minimum is not reduced again."""
    return struct.unpack("f", struct.pack("f", value))[0]
