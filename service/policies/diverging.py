"""When training has diverged, and which checkpoint a run then goes back to."""

import math
from collections.abc import Sequence
from statistics import median

WINDOW = 50  # steps whose losses tell what is usual
_LEAST = 20  # fewer tell nothing
_TO_DEVIATION = 1.4826  # times the median absolute deviation is the standard deviation of normal noise
_FLOOR = 0.01  # of the median: a loss that hardly moves has no spread of its own
_SOON = 3  # steps


def problem(loss: float, recent: Sequence[float], spike: float | None) -> str:
    """Returns what is wrong with a step's loss, or nothing.

    Args:
        loss: of the global batch.
        recent: the losses of the last good steps, at most `WINDOW`.
        spike: how many times the usual spread a loss may lie above the median of these; None lets any finite one pass.
            The spread is the standard deviation, estimated by the median absolute deviation, and 1 % of the median at
            least. Where more than half of the losses are 0 there is none.
    """
    if not math.isfinite(loss):
        return f"its loss is {loss}"
    if spike is None or len(recent) < _LEAST:
        return ""
    middle = median(recent)
    spread = max(_TO_DEVIATION * median(abs(value - middle) for value in recent), _FLOOR * abs(middle))
    if spread == 0 or loss - middle <= spike * spread:
        return ""
    return (
        f"its loss is {loss:.6g}, {(loss - middle) / spread:.3g} times the usual spread of {spread:.3g} above the median "
        f"{middle:.6g} of the {len(recent)} steps before"
    )


def back_to(good: Sequence[tuple[int, int]], step: int, in_a_row: int) -> int:
    """Returns the number of the checkpoint to go back to; 0 is where the training began.

    That is the newest good one. Where training went back to it already and diverged again within a few
    steps, it may hold what made it diverge, and the newest of an earlier step is taken.

    Args:
        good: (number, steps complete) of the checkpoints that may be gone back to, newest first.
        step: which step diverged, from 1.
        in_a_row: how often training went back since the newest of them was committed.
    """
    newest, complete = good[0] if good else (0, 0)
    if in_a_row == 0 or step - 1 - complete >= _SOON:
        return newest
    return next((number for number, steps in good if steps < complete), 0)
