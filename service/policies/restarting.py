"""Whether lost workers start again."""

import dataclasses
import itertools
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Failure:
    """How an attempt ended that lost workers.

    Attributes:
        lost: which workers, and what became of them.
        checkpoint: the number of the run's newest checkpoint then.
        steps: how many steps the attempt had begun, by the count of a worker that outlived it; 0 where none did.
        is_machine: whether a machine was lost, with all processes on it.
    """

    lost: str
    checkpoint: int
    steps: int = 0
    is_machine: bool = False


def reason_to_end(failures: Sequence[Failure], max_restarts: int) -> str:
    """Returns why the run must end after the last of these failures, or nothing where its workers start again.

    A process that dies in the same step of two attempts, one behind the other and from the same checkpoint,
    does so because of that step. Failures with a new checkpoint in between are forgotten, so that a
    run of weeks outlives any number of lost machines.
    """
    last = failures[-1]
    if last.steps and not last.is_machine and failures[-2:-1] == [last]:
        return (
            f"Workers were lost twice in the same step, {last.steps} steps into the attempt ({last.lost}). Starting again "
            "would repeat it: look for an operation that crashes on that batch, or for memory that runs out"
        )
    without_progress = sum(1 for _ in itertools.takewhile(lambda f: f.checkpoint == last.checkpoint, reversed(failures)))
    if without_progress > max_restarts:
        return (
            f"Workers were lost ({last.lost}). Since the newest checkpoint they were started again {max_restarts} times, "
            f"which is what max_restarts={max_restarts} allows"
        )
    return ""
