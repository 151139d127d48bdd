"""When a worker is stuck."""

import dataclasses
from collections.abc import Collection, Iterable
from typing import NamedTuple

STEP = "step"
OUTSIDE = "the job's own code"  # before, between and after what is trained: may take as long as it likes


class Beat(NamedTuple):
    """What is known of where a worker is.

    Attributes:
        phase: "step" inside a step that has been taken before; else what takes the time.
        seconds: how long it has been there.
        age: how many seconds ago that was told.
    """

    phase: str
    seconds: float
    age: float = 0.0


@dataclasses.dataclass(frozen=True)
class StallPolicy:
    """A step that takes much longer than those before it is stuck, unless another worker is known to be busy elsewhere.

    Attributes:
        stall_seconds: how long anything but a step may take: compiling, a callback, a save, waiting for data.
        least_seconds: no step is stuck before; a worker that has told nothing for so long is not known to be busy.
        times: how many times as long as the slowest recent one a step may take.
    """

    stall_seconds: float
    least_seconds: float = 10.0
    times: float = 5.0

    def step_seconds(self, recent: Collection[float]) -> float:
        """Returns how long a step may take, from the seconds of those before it; without any as long as anything else."""
        if not recent:
            return self.stall_seconds
        return min(max(self.least_seconds, self.times * max(recent)), max(self.stall_seconds, self.least_seconds))

    def problem(self, mine: Beat, others: Iterable[Beat], recent: Collection[float]) -> str:
        """Returns what is wrong with this worker, or nothing."""
        if mine.phase == OUTSIDE:
            return ""
        if mine.phase != STEP:
            return f"{mine.phase} takes longer than {self.stall_seconds:g} s" if mine.seconds > self.stall_seconds else ""
        limit = self.step_seconds(recent)
        heard = [beat for beat in others if beat.age < self.least_seconds and beat.phase != STEP]
        if mine.seconds <= limit or any(beat.phase == OUTSIDE or beat.seconds <= self.stall_seconds for beat in heard):
            return ""
        return f"a step takes longer than {limit:.3g} s"
