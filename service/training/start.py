"""Where training begins: at the first step, or where a checkpoint left off."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass
class Start:
    """The place of the next step, and what to put back before it.

    Attributes:
        epoch: the epoch to train next, from 0.
        batch: the batch of that epoch to train next; the metrics hold those before it.
        restore: puts the callbacks' state back; called once they have begun.
        is_stopped: a callback had stopped the training here.
        leaves_out: tells of an epoch and a batch whether a step is taken on it; the plan stays what it is.
        is_over: an earlier attempt trained it all, and the model has what that left.
    """

    epoch: int = 0
    batch: int = 0
    restore: Callable[[], None] = lambda: None
    leaves_out: Callable[[int, int], bool] = lambda epoch, batch: False
    is_stopped: bool = False
    is_over: bool = False
