"""Tensors cut into ranges of elements, shared out among workers."""

import bisect
import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# A cut may move this part of one worker's bytes to end between two tensors; two cuts
# then make a share at most 1.1 times the mean.
_SLACK = 0.05


class Piece(NamedTuple):
    """The elements [begin, end) of a tensor that is read as one row.

    Attributes:
        tensor: the tensor's name.
        begin: the first element.
        end: the element after the last one.
    """

    tensor: str
    begin: int
    end: int


def share(sizes: Mapping[str, tuple[int, int]], workers: int) -> list[list[Piece]]:
    """Returns the pieces that each of `workers` writes, so that none writes much more than 1/workers.

    All tensors lie end to end, in order of their names, and are cut into `workers` equal
    lengths. A cut moves to the nearest end of a tensor, if one is near, and to the start
    of an element otherwise. So there are at most `workers - 1` more pieces than tensors,
    and no share is above 1.1/workers of the bytes and one element.

    Args:
        sizes: of each tensor, how many elements it has and the bytes of one.
        workers: among how many to share; the same arguments give the same shares.
    """
    names = sorted(sizes)
    ends = [0, *itertools.accumulate(sizes[name][0] * sizes[name][1] for name in names)]
    total = ends[-1]

    def cut(place: int) -> int:
        tensor = bisect.bisect_right(ends, place) - 1
        near = min(ends[tensor : tensor + 2], key=lambda end: abs(end - place))
        if abs(near - place) * workers <= _SLACK * total:
            return near
        return place - (place - ends[tensor]) % sizes[names[tensor]][1]

    cuts = [0, *(cut(total * worker // workers) for worker in range(1, workers)), total]
    shares: list[list[Piece]] = [[] for _ in range(workers)]
    worker = 0
    for name, start, end in zip(names, ends, ends[1:], strict=False):
        count, width = sizes[name]
        if count == 0:
            shares[worker].append(Piece(name, 0, 0))
        while start < end:
            while cuts[worker + 1] <= start:
                worker += 1
            stop = min(end, cuts[worker + 1])
            shares[worker].append(Piece(name, count - (end - start) // width, count - (end - stop) // width))
            start = stop
    return shares


def check_cover(pieces: Iterable[Piece], counts: Mapping[str, int]) -> None:
    """Raises ValueError unless the pieces hold every element of every tensor exactly once."""
    reached = dict.fromkeys(counts, 0)
    for tensor, begin, end in sorted(pieces):
        if begin != reached[tensor]:
            what = "twice" if begin < reached[tensor] else "never"
            raise ValueError(f'tensor "{tensor}": its element {min(begin, reached[tensor])} is there {what}')
        reached[tensor] = end
    for tensor, count in counts.items():
        if reached[tensor] != count:
            raise ValueError(f'tensor "{tensor}": {reached[tensor]} of its {count} elements are there')
