"""How the rows of a source become each replica's part of each global batch."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from service.data.batches import Shuffle, cut, epoch_order
from service.data.sources import Arrays
from service.exact.group import Group, ScopeGroup


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the rows of a source become global batches."""

    source: Arrays
    batch_size: int
    seed: int = 0
    shuffle: Shuffle = False

    @property
    def steps(self) -> int:
        """Returns how many global batches an epoch has; the last one may be smaller."""
        return -(-self.source.size // self.batch_size)

    def batches(self, group: Group, epoch: int = 0, first: int = 0) -> Iterator[tuple[Any, Any, Any]]:
        """Yields (flat rows, [start, count, total, 0, 0, 0], weight sums) of this replica for the batches from `first` on."""
        order = epoch_order(self.source.size, self.seed, epoch, self.shuffle, self.batch_size) if self.shuffle else None
        replicas, replica = (1, 0) if isinstance(group, ScopeGroup) else (group.size, group.index)
        for begin in range(first * self.batch_size, self.source.size, self.batch_size):
            end = min(begin + self.batch_size, self.source.size)
            first_row, count = cut(end - begin, replicas, replica)
            mine = slice(begin + first_row, begin + first_row + max(count, 1))
            batch = slice(begin, end)
            numbers = np.array([first_row, count, end - begin, 0, 0, 0], np.int32)
            if order is None:
                yield self.source.rows(mine), numbers, self.source.weight_sums(batch)
            else:
                yield self.source.rows(order[mine]), numbers, self.source.weight_sums(order[batch])

    def whole(self, epoch: int, batch: int) -> tuple[Any, Any]:
        """Returns (flat rows, weight sums) of a whole global batch."""
        order = epoch_order(self.source.size, self.seed, epoch, self.shuffle, self.batch_size)
        places = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return self.source.rows(places), self.source.weight_sums(places)
