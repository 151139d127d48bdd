"""How batches that come one behind the other become epochs."""

import itertools
import warnings
from collections.abc import Callable, Iterator, Set
from typing import Any

import keras
import numpy as np

from service.data.sources import Arrays
from service.data.streams import Leaf, Stream
from service.exact.group import Group, PlainGroup
from service.training.plan import Batch, part_of


class StreamPlan:
    """A stream's batches as they come; see `plan.Plan`.

    With `steps_per_epoch` an epoch is that many batches and the next one goes on behind it; when the
    stream ends it begins again, with the epoch after. A generator only goes on.

    Args:
        stream: gives whole batches, the same on every worker.
        prepare: what is done to each batch, such as weights by class.
        steps_per_epoch: None if an epoch is a pass.
        goes_on: whether an epoch goes on behind the last one; validation begins anew.
        first_epoch: the epoch that is the stream's first.
        say: told what takes time, as a sentence.
    """

    batch_size: int | None = None
    sizes: Set[int] = frozenset()  # what comes is seen when it comes

    def __init__(
        self,
        stream: Stream,
        prepare: Callable[[Arrays], Arrays] = lambda batch: batch,
        steps_per_epoch: int | None = None,
        goes_on: bool = True,
        first_epoch: int = 0,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.source, self._prepare, self._steps, self._say = stream, prepare, steps_per_epoch, say
        self.like = _prepared(stream.like, prepare)
        self._goes_on = stream.continues or (goes_on and steps_per_epoch is not None)
        self._first_epoch = first_epoch
        self._epochs = 0  # that were taken from the stream
        self._passes = 0
        self._items: Iterator[Arrays] | None = None
        self._ahead: Arrays | None = None

    @property
    def steps(self) -> int | None:
        """Returns the global batches in an epoch; None while nobody knows."""
        return self._steps or self.source.steps

    def is_over(self, epoch: int) -> bool:
        """Whether the stream has ended and cannot begin again. Collective: every worker calls this."""
        at_hand = self.source.continues and epoch - self._first_epoch == self._epochs
        return at_hand and self._peek() is None

    def identity(self) -> dict[str, Any]:
        """Returns what decides which rows every step sees, as far as it can be told."""
        return {"steps_per_epoch": self._steps, "data": self.source.describe()}

    def batches(self, group: Group, epoch: int = 0, first: int = 0) -> Iterator[Batch]:
        """Yields this replica's part of the batches of an epoch, from batch `first` on.

        Collective: every worker iterates this.
        """
        number = epoch - self._first_epoch
        if isinstance(group, PlainGroup) and self.like[2] is None and hasattr(self.source, "share_out"):
            self.source.share_out(group.size, group.index)
        if self.source.replays or self._goes_on:
            if number > self._epochs or first:
                self._say(f"Reading the data again up to epoch {epoch + 1}, batch {first}, where the checkpoint left off.")
            while self._epochs < number:
                for _ in self._epoch():
                    pass
            items: Iterator[Arrays] = itertools.islice(self._epoch(), first, None)
        else:
            self._epochs = number
            items = self._epoch(first)
        for batch in items:
            yield part_of(batch, slice(0, batch.size), group)

    def _epoch(self, first: int = 0) -> Iterator[Arrays]:
        """Yields the batches of the next epoch."""
        if not self._goes_on or self._peek() is None:
            self._begin(first)
        self._epochs += 1
        for step in itertools.count(first):
            if step == self._steps:
                return
            batch = self._peek()
            if batch is None:
                if self._steps is not None:
                    warnings.warn(f"The data ended after {step} of {self._steps} batches: this epoch is shorter.", stacklevel=2)
                return
            self._ahead = None
            yield batch

    def _peek(self) -> Arrays | None:
        """Returns the next batch without taking it; None at the end of a pass."""
        if self._items is None:
            self._begin()
        if self._ahead is None and self._items is not None:
            self._ahead = next(self._items, None)
        return self._ahead

    def _begin(self, first: int = 0) -> None:
        number = self._passes if self._goes_on else self._epochs
        self._items, self._ahead = map(self._prepare, self.source.batches(number, first)), None
        self._passes += 1


def _prepared(like: Any, prepare: Callable[[Arrays], Arrays]) -> Any:
    """Returns what batches are like after `prepare`, which may give them weights, by trying it on a row of zeros."""
    row = keras.tree.map_structure(
        lambda leaf: None if leaf is None else np.zeros([size or 1 for size in leaf.shape], leaf.dtype), like
    )
    _, y, weights = prepare(Arrays(*row)).like
    spec = keras.tree.map_structure(lambda leaf: None if leaf is None else Leaf((None,) * leaf.ndim, str(leaf.dtype)), weights)
    return (like[0], None if y is None else like[1], spec)
