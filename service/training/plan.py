"""How a source becomes each replica's part of each global batch."""

import warnings
from collections.abc import Callable, Iterator, Set
from typing import Any, NamedTuple, Protocol

import numpy as np

from service.data.batches import Shuffle, cut, epoch_order
from service.data.sources import Arrays
from service.exact.group import Group, ScopeGroup


class Batch(NamedTuple):
    """One replica's part of a global batch.

    Attributes:
        rows: flat arrays [max(count, 1), ...]; the whole batch where a strategy's scope holds the variables.
        numbers: [6] int32: first row, count, total, and places for the wishes to stop, save and leave.
        weight_sums: [weights] each sample weight's sum over the whole batch.
        whole: gives the whole batch's flat rows.
    """

    rows: list[np.ndarray]
    numbers: np.ndarray
    weight_sums: np.ndarray
    whole: Callable[[], list[np.ndarray]]


class Plan(Protocol):
    """How one source becomes global batches.

    Attributes:
        like: (x, y, sample_weight) as every batch nests them.
        steps: global batches in an epoch; None while nobody knows.
        batch_size: rows of a global batch; None where the source says so.
        sizes: how many rows its batches have, as far as that is known.
    """

    @property
    def like(self) -> Any: ...

    @property
    def batch_size(self) -> int | None: ...

    @property
    def steps(self) -> int | None: ...

    @property
    def sizes(self) -> Set[int]: ...

    def batches(self, group: Group, epoch: int = 0, first: int = 0) -> Iterator[Batch]:
        """Yields this replica's part of the batches of an epoch, from batch `first` on."""

    def is_over(self, epoch: int) -> bool:
        """Whether there is nothing for the epoch, nor ever will be. Collective: every worker calls this."""

    def identity(self) -> dict[str, Any]:
        """Returns what decides which rows every step sees."""


class ArrayPlan:
    """Arrays cut into batches, in an order of (seed, epoch).

    With `steps_per_epoch` an epoch is that many batches, and the next one goes on behind it, as with
    Keras; what is left at the end of a pass through the data is an epoch of its own, however short.
    """

    def __init__(
        self,
        source: Arrays,
        batch_size: int,
        seed: int = 0,
        shuffle: Shuffle = False,
        steps_per_epoch: int | None = None,
        first_epoch: int = 0,
    ) -> None:
        self.source, self.batch_size, self.seed, self.shuffle = source, batch_size, seed, shuffle
        self.like, self._first_epoch, self._given_steps = source.like, first_epoch, steps_per_epoch
        in_a_pass = -(-source.size // batch_size)
        self.steps: int | None = steps_per_epoch or in_a_pass
        self._steps = min(self.steps or in_a_pass, in_a_pass)
        self._epochs_a_pass = -(-in_a_pass // self._steps)
        if steps_per_epoch and steps_per_epoch > in_a_pass:
            warnings.warn(
                f"steps_per_epoch={steps_per_epoch}, but all rows are {in_a_pass} batches: every epoch has those.", stacklevel=4
            )

    @property
    def sizes(self) -> Set[int]:
        """The rows of all its batches: of most, and of the last one."""
        return {min(self.batch_size, self.source.size), self.source.size % self.batch_size} - {0}

    def is_over(self, epoch: int) -> bool:
        """Never: every epoch has batches."""
        return False

    def identity(self) -> dict[str, Any]:
        """Returns what decides which rows every step sees."""
        steps = {} if self._given_steps is None else {"steps_per_epoch": self._given_steps}
        return {"batch_size": self.batch_size, "shuffle": self.shuffle, "data": self.source.fingerprint(), **steps}

    def batches(self, group: Group, epoch: int = 0, first: int = 0) -> Iterator[Batch]:
        """Yields this replica's part of the batches of an epoch, from batch `first` on."""
        passes, part = divmod(epoch - self._first_epoch, self._epochs_a_pass)
        order = None
        if self.shuffle:
            order = epoch_order(self.source.size, self.seed, self._first_epoch + passes, self.shuffle, self.batch_size)
        begins = range(0, self.source.size, self.batch_size)[part * self._steps : (part + 1) * self._steps]
        for begin in begins[first:]:
            places: slice | np.ndarray = slice(begin, min(begin + self.batch_size, self.source.size))
            yield part_of(self.source, places if order is None else order[places], group)


def part_of(source: Arrays, places: slice | np.ndarray, group: Group) -> Batch:
    """Returns this replica's part of the global batch that is the rows at `places`."""
    total = len(places) if isinstance(places, np.ndarray) else places.stop - places.start
    replicas, replica = (1, 0) if isinstance(group, ScopeGroup) else (group.size, group.index)
    start, count = cut(total, replicas, replica)
    end = start + max(count, 1)
    mine = places[start:end] if isinstance(places, np.ndarray) else slice(places.start + start, places.start + end)
    numbers = np.array([start, count, total, 0, 0, 0], np.int32)
    return Batch(source.rows(mine), numbers, source.weight_sums(places), lambda: source.rows(places))
