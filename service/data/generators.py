"""A Python generator as a stream: the chief runs it and sends its batches."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from service.cluster.consensus import Council
from service.data.sources import Arrays
from service.data.streams import Leaf, agreed, batch_of, check_like, leaves_of, like_of
from service.errors import DataInvalid, ServiceError

_END, _BATCH, _FAILED = 0, 1, 2


class Generated:
    """An iterator of (x, y) or (x, y, sample_weight), one global batch each; see `streams.Stream`.

    It cannot begin anew, so all epochs together are one pass, and a run that goes on reads again what
    it had read. Only the chief runs it, and sends each batch whole; with `same_everywhere` every
    worker runs its own, which saves the sending, and they are compared.
    """

    continues = True
    replays = True
    is_endless = False
    steps: int | None = None

    def __init__(self, iterator: Any, council: Council, same_everywhere: bool = False, of: str = "") -> None:
        """Collective: every worker calls this."""
        self.of, self._council = of, council
        if same_everywhere or council.count == 1:
            mine = (batch_of(element, of) for element in iterator)
            items = agreed(mine, council, f"the {of}generator")
            self.like, items = _peeked(items, of)
            self._items = items
        else:
            self._items, self.like = self._sent(iterator)
        self._expected = leaves_of(self)

    def batches(self, number: int, first: int = 0) -> Iterator[Arrays]:
        """Yields the batches that are left. Collective: every worker iterates this."""
        for place, batch in enumerate(self._items):
            check_like(batch, self._expected, place)
            yield batch

    def describe(self) -> str:
        """Returns what another attempt must find the same."""
        return f"a generator of {self.like}"

    def _sent(self, iterator: Any) -> tuple[Iterator[Arrays], tuple[Any, Any, Any]]:
        """Returns the chief's batches, and what they have in common."""
        items: Iterator[Arrays] = iter(())
        told: Any = None
        problem: Exception | None = None
        if self._council.index == 0:
            try:
                like, items = _peeked((batch_of(element, self.of) for element in iterator), self.of)
                told = _described(like)
            except Exception as error:
                problem = error
        told = self._council.chief(told)
        if told is None:
            raise problem or ServiceError(f"The {self.of}generator raised on the chief, whose error tells why.")
        like = _built(told, lambda leaf: Leaf(tuple(leaf[0]), leaf[1]))
        return self._received(items, told, leaves_of(_Like(like))), like

    def _received(self, items: Iterator[Arrays], told: Any, leaves: list[tuple[Any, Leaf]]) -> Iterator[Arrays]:
        is_chief = self._council.index == 0
        # What comes next, then each array's shape.
        length = 1 + sum(len(leaf.shape) for _, leaf in leaves)
        while True:
            header, data, problem = np.zeros(length, np.int64), b"", None
            if is_chief:
                try:
                    header, data = _packed(next(items, None), leaves, header)
                except Exception as error:
                    problem, header[0] = error, _FAILED
            header = self._council.from_chief(header)
            if header[0] == _FAILED:
                raise problem or ServiceError(f"The {self.of}generator raised on the chief, whose error tells why.")
            if header[0] == _END:
                return
            shapes = _shapes(header[1:], leaves)
            sizes = [
                int(np.prod(shape)) * np.dtype(leaf.dtype).itemsize for shape, (_, leaf) in zip(shapes, leaves, strict=True)
            ]
            words = np.zeros(-(-sum(sizes) // 8), np.int64)
            words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
            content = self._council.from_chief(words).view(np.uint8)
            ends = list(itertools.accumulate(sizes, initial=0))
            arrays = iter(
                content[begin:end].view(leaf.dtype).reshape(shape)
                for begin, end, shape, (_, leaf) in zip(ends, ends[1:], shapes, leaves, strict=False)
            )
            x, y, sample_weight = _built(told, lambda _: next(arrays))  # noqa: B023  (used before the next turn)
            yield Arrays(x, y, sample_weight, of=self.of)


class _Like:
    def __init__(self, like: Any) -> None:
        self.like = like


def _peeked(items: Iterator[Arrays], of: str) -> tuple[Any, Iterator[Arrays]]:
    """Returns what the first two batches have in common, and all batches."""
    ahead = list(itertools.islice(items, 2))
    if not ahead:
        raise DataInvalid(f"The {of}generator gave no batch: expected an iterator of (x, y) or (x, y, sample_weight).")
    return like_of(ahead), itertools.chain(ahead, items)


def _packed(batch: Arrays | None, leaves: list[tuple[Any, Leaf]], header: np.ndarray) -> tuple[np.ndarray, bytes]:
    if batch is None:
        header[0] = _END
        return header, b""
    check_like(batch, leaves, 2)
    arrays = [leaf for _, leaf in batch.leaves()]
    header[:] = [_BATCH, *itertools.chain.from_iterable(array.shape for array in arrays)]
    return header, b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def _shapes(numbers: np.ndarray, leaves: list[tuple[Any, Leaf]]) -> list[tuple[int, ...]]:
    remaining = iter(numbers.tolist())
    return [tuple(itertools.islice(remaining, len(leaf.shape))) for _, leaf in leaves]


def _described(nested: Any) -> Any:
    """Returns nested leaves as JSON: their nesting, shapes and types."""
    if isinstance(nested, dict):
        return {"dict": {key: _described(value) for key, value in nested.items()}}
    if isinstance(nested, list | tuple):
        return {type(nested).__name__: [_described(value) for value in nested]}
    return None if nested is None else [list(nested.shape), nested.dtype]


def _built(told: Any, leaf: Any) -> Any:
    """Returns what `_described` was given, with leaves made of their shape and type, in its order."""
    if not isinstance(told, dict):
        return None if told is None else leaf(told)
    ((kind, values),) = told.items()
    if kind == "dict":
        return {key: _built(values[key], leaf) for key in sorted(values)}
    built = [_built(value, leaf) for value in values]
    return built if kind == "list" else tuple(built)
