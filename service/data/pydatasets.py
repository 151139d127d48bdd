"""A keras.utils.PyDataset as a stream: every worker asks for each batch by its number."""

import collections
import contextlib
import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import keras

from service.cluster.consensus import Council
from service.data.batches import Shuffle, epoch_order
from service.data.sources import Arrays
from service.data.streams import agreed, batch_of, like_of
from service.errors import DataInvalid


class Indexed:
    """A PyDataset (Keras 2's Sequence) whose items are global batches; see `streams.Stream`.

    With `shuffle` the batches come in an order of (seed, pass), the same on every worker; Keras
    would draw it from Python's generator, in each process anew.
    """

    continues = False
    replays = False

    def __init__(self, dataset: Any, council: Council, shuffle: Shuffle = False, seed: int = 0, of: str = "") -> None:
        self.of, self._dataset, self._council = of, dataset, council
        self._shuffle, self._seed = bool(shuffle), seed
        self.steps: int | None = dataset.num_batches
        self.is_endless = self.steps is None
        self._next = 0
        if self.steps == 0:
            raise DataInvalid(f"{of}x is a {type(dataset).__name__} of no batches: expected at least one.")
        self.like = like_of([batch_of(dataset[i], of) for i in range(min(2, self.steps or 2))])

    def batches(self, number: int, first: int = 0) -> Iterator[Arrays]:
        """Yields the batches of a pass from batch `first` on. Collective: every worker iterates this.

        What the author's on_epoch_begin and on_epoch_end do in the passes before is done first.
        """
        for _ in range(self._next, number):
            self._dataset.on_epoch_begin()
            self._dataset.on_epoch_end()
        self._next = number + 1
        self._dataset.on_epoch_begin()
        with _executor(self._dataset) as ask:
            items = (batch_of(item, self.of) for item in self._in_order(ask, number, first))
            yield from agreed(items, self._council, f"the {self.of}{type(self._dataset).__name__}")
        self._dataset.on_epoch_end()

    def describe(self) -> str:
        """Returns what another attempt must find the same."""
        return f"{type(self._dataset).__name__}, {self.steps} batches of {self.like}"

    def _in_order(self, ask: Callable[[int], Future[Any]], number: int, first: int) -> Iterator[Any]:
        if self.steps is None:
            places: Iterable[int] = itertools.count(first)
        else:
            places = epoch_order(self.steps, self._seed, number, self._shuffle)[first:].tolist()
        waiting: collections.deque[Future[Any]] = collections.deque()
        for place in places:
            waiting.append(ask(place))
            if len(waiting) >= max(1, self._dataset.max_queue_size):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextlib.contextmanager
def _executor(dataset: Any) -> Iterator[Callable[[int], Future[Any]]]:
    """Yields what asks for an item: here and now, or of the threads or processes that the dataset was made with."""
    workers = dataset.workers
    if workers < 1 or (workers == 1 and not dataset.use_multiprocessing):
        yield lambda place: _done(dataset[place])
        return
    pool: Executor
    if dataset.use_multiprocessing:
        # Never forked: TensorFlow has threads, whose locks a fork would copy as they are.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, context, initializer=_hold, initargs=(dataset,))
        item_at: Callable[[int], Any] = _item
    else:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="pydataset")
        item_at = dataset.__getitem__
    try:
        yield lambda place: pool.submit(item_at, place)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


_HELD: list[keras.utils.PyDataset] = []


def _hold(dataset: Any) -> None:
    _HELD[:] = [dataset]


def _item(place: int) -> Any:
    return _HELD[0][place]
