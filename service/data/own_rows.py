"""The part of a tf.data pipeline that a replica's own rows of each batch need."""

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.data.util import structure

from service.data.batches import cut
from service.data.sources import Arrays
from service.data.streams import batch_of

_AROUND = ("_PrefetchDataset", "_OptionsDataset")
_BATCHES = ("_BatchDataset", "_ParallelBatchDataset")
_MAPS = ("_MapDataset", "_ParallelMapDataset")


class OwnRows(Arrays):
    """A global batch of which a replica has its own rows, and finds the others only where all are asked for.

    Attributes:
        size: rows of the global batch.
        told: a CRC-32 of what the batch is made from, the same on every replica.
    """

    def __init__(self, element: Any, start: int, size: int, told: int, whole: Callable[[], Arrays], of: str = "") -> None:
        super().__init__(*batch_of(element, of).like, of=of)
        self.size, self.told = size, told
        self._start, self._whole = start, whole

    def rows(self, places: slice | np.ndarray) -> list[np.ndarray]:
        """Returns the flat leaves' rows at places of the global batch."""
        if isinstance(places, slice) and (places.start, places.stop) != (0, self.size):
            return super().rows(slice(places.start - self._start, places.stop - self._start))
        return self._whole().rows(places)

    def inputs(self) -> Arrays:
        """Returns x alone."""
        return OwnRows((self.like[0],), self._start, self.size, self.told, lambda: self._whole().inputs(), self.of)


class OwnReading:
    """A pipeline `source.map(...).batch(n)` that loads and computes, of each global batch, one replica's rows alone.

    What the source gives, such as file names or records, is read by every replica, for it says
    which rows a batch has. What is mapped from it, such as the files' content, is not.
    """

    def __init__(self, source: Any, maps: list[Any], batch_size: int, drop_remainder: bool, of: str = "") -> None:
        self._batches = source.batch(batch_size, drop_remainder=drop_remainder)
        self._maps, self._of = maps, of

    def batches(self, replicas: int, replica: int, first: int = 0) -> Iterator[OwnRows]:
        """Yields the batches of a pass from batch `first` on."""

        def own(*raw: Any) -> Any:
            total = tf.cast(tf.shape(tf.nest.flatten(raw)[0])[0], tf.int64)
            start, end = ((replica + i) * total // replicas for i in (0, 1))
            held = tf.maximum(end - start, 1)
            mine = self._mapped(tf.nest.map_structure(lambda tensor: tensor[start : start + held], raw)).batch(held)
            return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(raw), mine)

        for raw, element in self._batches.skip(first).flat_map(own).prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
            total = len(tf.nest.flatten(raw)[0])
            start, _ = cut(total, replicas, replica)
            yield OwnRows(element, start, total, _checksum(raw), functools.partial(self._whole, raw), self._of)

    def _mapped(self, raw: Any) -> Any:
        rows = tf.data.Dataset.from_tensor_slices(raw)
        for mapped in self._maps:
            rows = rows.map(_function_of(mapped), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return rows

    def _whole(self, raw: Any) -> Arrays:
        (element,) = self._mapped(raw).batch(len(tf.nest.flatten(raw)[0])).as_numpy_iterator()
        return batch_of(element, self._of)


def own_reading(dataset: Any, of: str = "") -> OwnReading | None:
    """Returns how to read a replica's rows alone, if the pipeline ends with batches of rows that are mapped one by one.

    A function with a state, such as a draw of random numbers, is called for all rows or gives others.
    """
    outer = _without(dataset, _AROUND)
    if type(outer).__name__ not in _BATCHES:
        return None
    maps: list[Any] = []
    inner = _without(outer._input_dataset, _AROUND)
    while type(inner).__name__ in _MAPS:
        if inner._map_func.function.function_def.signature.is_stateful:
            return None
        maps.insert(0, inner)
        inner = _without(inner._input_dataset, _AROUND)
    specs = tf.nest.flatten(inner.element_spec)
    if not maps or not all(isinstance(spec, tf.TensorSpec) and spec.shape.is_fully_defined() for spec in specs):
        return None
    return OwnReading(inner, maps, int(outer._batch_size), bool(outer._drop_remainder), of)


def _without(dataset: Any, kinds: tuple[str, ...]) -> Any:
    while type(dataset).__name__ in kinds:
        dataset = dataset._input_dataset
    return dataset


def _function_of(mapped: Any) -> Callable[..., Any]:
    """Returns a map's function as it was traced when the author made the pipeline."""
    wrapper = mapped._map_func

    def call(*element: Any) -> Any:
        given = element if len(element) > 1 or isinstance(wrapper._input_structure, tuple) else element[0]
        return structure.from_tensor_list(
            wrapper._output_structure, list(wrapper.function(*structure.to_tensor_list(wrapper._input_structure, given)))
        )

    return call


def _checksum(raw: Any) -> int:
    value = 0
    for leaf in tf.nest.flatten(raw):
        content = b"\0".join(leaf.reshape(-1).tolist()) if leaf.dtype == object else np.ascontiguousarray(leaf).tobytes()
        value = zlib.crc32(f"{leaf.shape}{leaf.dtype}".encode() + content, value)
    return value
