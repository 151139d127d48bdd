"""Global batches that come one behind the other, the same on every worker."""

import dataclasses
import itertools
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import keras
import numpy as np

from service.cluster.consensus import Council
from service.data.sources import Arrays
from service.errors import DataInvalid, WorkersDiffer

# Batches that the workers compare at a time, in one collective.
AHEAD = 8


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What is known of one array of every batch.

    Attributes:
        shape: its dimensions, None where batches differ; the first one always does.
        dtype: its type's name.
    """

    shape: tuple[int | None, ...]
    dtype: str


class Stream(Protocol):
    """A source of whole global batches.

    Attributes:
        of: what stands in front of an argument's name in messages.
        like: (x, y, sample_weight) as the batches nest them, with a `Leaf` for each array.
        steps: how many batches a pass has, where that is known.
        continues: whether there is one pass only, over all epochs, as with a generator.
        replays: whether a later pass can only be had by reading those before it.
    """

    of: str
    like: tuple[Any, Any, Any]
    steps: int | None
    continues: bool
    replays: bool

    def batches(self, number: int, first: int = 0) -> Iterator[Arrays]:
        """Yields the batches of pass `number` (from 0) from batch `first` on. Collective: every worker iterates this."""

    def describe(self) -> str:
        """Returns what another attempt must find the same."""


def batch_of(element: Any, of: str = "") -> Arrays:
    """Returns a batch from what a pipeline yields: x, (x, y) or (x, y, sample_weight)."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
    return Arrays(x, y, sample_weight, of=of)


def like_of(batches: list[Arrays]) -> tuple[Any, Any, Any]:
    """Returns what the batches have in common, see `Stream.like`.

    Raises:
        DataInvalid: they are nested, or typed, in different ways.
    """
    first = batches[0]
    for other in batches[1:]:
        check_like(other, leaves_of(first), 1)
    shapes = zip(*([tuple(leaf.shape) for _, leaf in batch.leaves()] for batch in batches), strict=True)
    common = [
        Leaf(
            (None, *(sizes[0] if len(set(sizes)) == 1 else None for sizes in list(zip(*same, strict=True))[1:])),
            str(leaf.dtype),
        )
        for same, (_, leaf) in zip(shapes, first.leaves(), strict=True)
    ]
    remaining = iter(common)
    return keras.tree.map_structure(lambda leaf: None if leaf is None else next(remaining), first.like)


def leaves_of(source: Any) -> list[tuple[tuple[Any, ...], Leaf]]:
    """Returns the path and the `Leaf` of each array of a batch or stream."""
    return [
        (path, Leaf((None, *leaf.shape[1:]), str(leaf.dtype)))
        for path, leaf in keras.tree.flatten_with_path(source.like)
        if leaf is not None
    ]


def check_like(batch: Arrays, expected: list[tuple[tuple[Any, ...], Leaf]], number: int) -> None:
    """Refuses a batch that is not as those before it; a size that is None, or another rank's, may be any.

    Raises:
        DataInvalid: naming the batch and what differs.
    """
    found = leaves_of(batch)
    same = [path for path, _ in found] == [path for path, _ in expected] and all(
        leaf.dtype == wanted.dtype and len(leaf.shape) == len(wanted.shape)
        for (_, leaf), (_, wanted) in zip(found, expected, strict=True)
    )
    if not same:
        shown = [", ".join(f"{leaf.dtype}{list(leaf.shape)}" for _, leaf in leaves) for leaves in (found, expected)]
        raise DataInvalid(
            f"Batch {number} of the {batch.of or 'training '}data holds {shown[0]}; the batches before it hold {shown[1]}. "
            "Give every batch the same arrays, of the same types."
        )


def agreed(items: Iterator[Arrays], council: Council, what: str) -> Iterator[Arrays]:
    """Yields the batches of a pipeline that every worker runs, after comparing them. Collective: every worker iterates this.

    Raises:
        WorkersDiffer: on all workers, where the batches differ or end at different places.
    """
    if council.count == 1:
        yield from items
        return
    seen = 0
    while True:
        ahead = list(itertools.islice(items, AHEAD))
        told = np.full(AHEAD, -1)
        told[: len(ahead)] = [checksum(batch) for batch in ahead]
        everyone = council.gather(told)
        if not (everyone == everyone[0]).all():
            place = int(np.argmax((everyone != everyone[0]).any(axis=0)))
            ended = [str(worker) for worker in range(council.count) if everyone[worker, place] == -1]
            raise WorkersDiffer(
                f"Batch {seen + place} of {what} "
                + (
                    f"is the end on workers {', '.join(ended)} and not on the others"
                    if ended
                    else "differs between the workers"
                )
                + ". Every worker runs the whole pipeline and takes its rows of each batch: seed what shuffles or draws, and "
                "give no worker a shard of its own."
            )
        yield from ahead
        seen += len(ahead)
        if len(ahead) < AHEAD:
            return


def checksum(batch: Arrays) -> int:
    """Returns a number that tells a batch from another one: a CRC-32 of its arrays' shapes, types and content."""
    value = getattr(batch, "told", 0)
    for name, leaf in () if hasattr(batch, "told") else batch.leaves():
        value = zlib.crc32(f"{name}{leaf.shape}{leaf.dtype}".encode(), value)
        value = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, value)
    return value
