"""What a worker wishes in a step, and what all of them hear after it."""

from typing import NoReturn, Protocol

import numpy as np

from service.errors import WorkersDiffer
from service.training.recording import Pace
from service.training.step import WISHES


class Wishes(Protocol):
    """What a step asks and tells whoever watches the run."""

    def wishes(self) -> tuple[bool, bool]:
        """Whether this worker wishes a checkpoint after the next step, and to leave after it."""

    def hear(self, leave: bool) -> None:
        """Some worker wished a checkpoint after the step that was just taken, or that all leave."""


class Saving(Wishes, Protocol):
    """What the loop asks and tells whoever saves checkpoints.

    Attributes:
        pace: how fast the epoch's steps are; the loop gives each epoch's.
    """

    pace: Pace

    def judge(self, epoch: int, batch: int, loss: float | None) -> None:
        """Looks at the global batch's loss in the step just taken, before any callback does; None where it is not known.

        Collective where training has diverged: every worker calls this.
        """

    def leave(self) -> NoReturn:
        """Commits what was saved and ends the attempt. Collective: every worker calls this."""


def heard(control: np.ndarray) -> tuple[bool, bool, bool]:
    """Returns whether a worker wished to stop, to save, and to leave; refuses learning rates that differ between workers."""
    rates = control[WISHES:]
    if not np.all(rates == rates[:1]):
        raise WorkersDiffer(
            f"The learning rates of the workers differ: {', '.join(f'{rate:g}' for rate in rates)} on workers 0 and on. "
            "A callback set one from something that is not the same everywhere, such as the time; set it from the logs."
        )
    return bool(control[0] > 0), bool(control[1] > 0), bool(control[2] > 0)
