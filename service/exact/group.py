"""What a step may know of the other replicas: size, own rows, sum, gather."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from service.cluster.strategy import PlainStrategy
from service.errors import DataInvalid, ModelInvalid

_NOT_TOGETHER = (
    tf.distribute.ParameterServerStrategy,
    tf.distribute.experimental.ParameterServerStrategy,
    tf.distribute.experimental.CentralStorageStrategy,
)


class Rows(NamedTuple):
    """Which rows of a global batch a replica holds.

    A replica without rows of its own runs a copy of row `start`, because kernels crash and
    means become NaN on none; `count` is then 0 and all that the copy gives is cut away.

    Attributes:
        start: [] int32, the first row of the replica in the global batch.
        count: [] int32, how many rows it holds; its tensors have max(count, 1).
        total: [] int32, how many rows the global batch has.
    """

    start: Any
    count: Any
    total: Any


class Group:
    """One replica alone: nothing to sum, every row its own.

    Attributes:
        size: how many replicas take a step together.
        has_peers: whether other processes decide too, so that one's wish to stop must be heard by all.
        compiler: what compiles the group's steps whatever a model says; empty where the model decides.
    """

    size = 1
    has_peers = False
    compiler = ""

    def run(self, function: Any, *args: Any) -> Any:
        """Runs `function` as this worker's replicas; its result is the same on all of them, so one stands for it."""
        return function(*args)

    @property
    def index(self) -> Any:
        """Which replica this is, from 0."""
        return 0

    def check_rows(self, total: int) -> None:
        """Refuses a global batch of so many rows that cannot be shared out; DataInvalid tells what can."""

    def own_rows(self, flat: list[Any], numbers: Any) -> tuple[list[Any], Rows]:
        """Returns this replica's rows of the tensors, and which ones those are.

        Args:
            flat: what the worker feeds the step; its own rows already, except for `ScopeGroup`.
            numbers: [n] int32: the first row, how many, and rows of the global batch, then others.
        """
        return flat, Rows(numbers[0], numbers[1], numbers[2])

    def sum(self, tensors: Sequence[Any]) -> list[Any]:
        """Returns each tensor summed over all replicas, in one fused collective.

        Collective: every replica calls this, in the same order, with the same shapes.
        Numbers travel in the widest type among them, so that nothing is lost; integers
        beside floats take a second collective.
        """
        if self.size == 1:
            return list(tensors)
        tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
        summed: list[Any] = [None] * len(tensors)
        for floating in (True, False):
            places = [i for i, t in enumerate(tensors) if (t.dtype.is_floating or t.dtype.is_complex) == floating]
            for place, tensor in zip(places, self._sum_fused([tensors[i] for i in places]), strict=True):
                summed[place] = tensor
        return summed

    def sum_nested(self, nested: Any) -> Any:
        """Like `sum`, of lists, tuples and dicts of tensors. Collective: every replica calls this."""
        return tf.nest.pack_sequence_as(nested, self.sum(tf.nest.flatten(nested)))

    def sum_differentiable(self, tensors: Sequence[Any]) -> list[Any]:
        """Like `sum`, for the forward pass: the gradient of a sum over replicas is the sum of their gradients.

        Collective: every replica calls this, and once more for the gradient.
        """
        if self.size == 1:
            return list(tensors)

        @tf.custom_gradient
        def total(*parts: Any) -> Any:
            return tuple(self.sum(parts)), lambda *upstream: tuple(self.sum(upstream))

        return list(total(*tensors))

    def gather(self, value: Any) -> Any:
        """Returns [size, ...]: the replicas' values of one shape, in order; differentiable.

        Collective: every replica calls this, and once more for the gradient.
        """
        return self.sum_differentiable([self.placed(value)])[0]

    def placed(self, value: Any) -> Any:
        """Returns [size, ...] zeros with this replica's value at its place; the sum over replicas gathers them."""
        if value.shape.is_fully_defined():
            return tf.scatter_nd([[self.index]], value[None], [self.size, *value.shape])
        shape = tf.concat([[self.size], tf.shape(value)], 0)
        return tf.ensure_shape(tf.scatter_nd([[self.index]], value[None], shape), [self.size, *value.shape])

    def _sum_fused(self, tensors: list[Any]) -> list[Any]:
        if not tensors:
            return []
        wire = _widest([tensor.dtype for tensor in tensors])
        flat = [tf.reshape(tf.cast(tensor, wire), [-1]) for tensor in tensors]
        sizes = [part.shape[0] if part.shape[0] is not None else tf.size(part) for part in flat]
        summed = tf.split(self._all_reduce(tf.concat(flat, 0)), sizes)
        return [_shaped(tf.cast(part, tensor.dtype), tensor) for part, tensor in zip(summed, tensors, strict=True)]

    def _all_reduce(self, vector: Any) -> Any:
        return vector


class PlainGroup(Group):
    """Worker processes with plain variables: the strategy only sums."""

    has_peers = True

    def __init__(self, strategy: PlainStrategy) -> None:
        self.strategy = strategy
        self.size = strategy.num_replicas_in_sync
        self._index = strategy.cluster_resolver.task_id

    @property
    def index(self) -> Any:
        return self._index

    def _all_reduce(self, vector: Any) -> Any:
        def reduce(part: Any) -> Any:
            # An argument has no device of its own, and all_reduce needs one.
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(part))

        return self.strategy.run(reduce, args=(vector,))


class ScopeGroup(Group):
    """The replicas of a strategy that holds the variables; they act inside `strategy.run`."""

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.strategy = strategy
        self.size = strategy.num_replicas_in_sync

    def run(self, function: Any, *args: Any) -> Any:
        results = self.strategy.run(function, args=args)
        return tf.nest.map_structure(lambda value: self.strategy.experimental_local_results(value)[0], results)

    @property
    def index(self) -> Any:
        return tf.distribute.get_replica_context().replica_id_in_sync_group

    def own_rows(self, flat: list[Any], numbers: Any) -> tuple[list[Any], Rows]:
        """Cuts the whole batch, which is what every worker feeds: one step serves several replicas."""
        index, total = tf.cast(self.index, tf.int32), numbers[2]
        start = index * total // self.size
        rows = Rows(start, (index + 1) * total // self.size - start, total)
        return [t[start : start + tf.maximum(rows.count, 1)] for t in flat], rows

    def _all_reduce(self, vector: Any) -> Any:
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(vector))


class CoreGroup(ScopeGroup):
    """The cores of TPUs, for which XLA compiles a step anew for every number of rows: each core holds as many as the others."""

    compiler = "XLA"

    def run(self, function: Any, *args: Any) -> Any:
        # A dynamic batch would be padded to a size that the rows do not have.
        options = tf.distribute.RunOptions(experimental_enable_dynamic_batch_size=False)
        results = self.strategy.run(function, args=args, options=options)
        return tf.nest.map_structure(lambda value: self.strategy.experimental_local_results(value)[0], results)

    def check_rows(self, total: int) -> None:
        if total % self.size:
            raise DataInvalid(
                f"A batch of {total} rows does not go evenly onto {self.size} TPU cores. Choose a batch_size that is a "
                f"multiple of {self.size}, and as many rows that the last batch is one too."
            )

    def own_rows(self, flat: list[Any], numbers: Any) -> tuple[list[Any], Rows]:
        """Cuts the whole batch at sizes that come of its shape alone, which XLA knows when it compiles."""
        total = tf.shape(flat[0])[0]
        count = total // self.size
        start = tf.cast(self.index, tf.int32) * count
        own = [tf.slice(t, [start, *[0] * (len(t.shape) - 1)], tf.concat([[count], tf.shape(t)[1:]], 0)) for t in flat]
        own = [tf.ensure_shape(part, [None, *t.shape[1:]]) for part, t in zip(own, flat, strict=True)]
        return own, Rows(start, count, total)


@functools.lru_cache(maxsize=8)
def of(strategy: tf.distribute.Strategy | None) -> Group:
    """Returns the group of a strategy's replicas; None is this process alone.

    Raises:
        ModelInvalid: the strategy's replicas do not take each step together.
    """
    if isinstance(strategy, _NOT_TOGETHER):
        raise ModelInvalid(
            f"The model was made in the scope of {type(strategy).__name__}: its variables are updated apart from the replicas "
            "or without waiting for all of them, so its step cannot be the step of one device. Use worker.strategy."
        )
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return CoreGroup(strategy)
    if isinstance(strategy, PlainStrategy):
        return PlainGroup(strategy)
    if strategy is None or (strategy.num_replicas_in_sync == 1 and not strategy.extended._in_multi_worker_mode()):
        return Group()
    return ScopeGroup(strategy)


def _shaped(flat: Any, like: Any) -> Any:
    """Returns flat values in the shape of `like`; a shape that is known costs a step no operation to find out."""
    if like.shape.is_fully_defined():
        return tf.reshape(flat, like.shape)
    return tf.ensure_shape(tf.reshape(flat, tf.shape(like)), like.shape)


def _widest(dtypes: list[tf.DType]) -> tf.DType:
    if any(dtype.is_complex for dtype in dtypes):
        return tf.complex128
    if any(dtype.is_floating for dtype in dtypes):
        return tf.float64 if tf.float64 in dtypes else tf.float32
    return tf.int64
