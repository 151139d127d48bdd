"""A tf.data pipeline as a stream: a worker loads its own rows of each batch, or all of it."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from service.cluster.consensus import Council
from service.data.own_rows import OwnReading, own_reading
from service.data.sources import Arrays
from service.data.streams import Leaf, agreed, batch_of
from service.errors import DataInvalid

# Operations whose second pass may be another one than the first.
_MOVING = ("Shuffle", "Random", "PyFunc", "EagerPyFunc", "Generator", "Stateful")


class Dataset:
    """A tf.data.Dataset whose elements are global batches; see `streams.Stream`."""

    continues = False

    def __init__(self, dataset: Any, council: Council, of: str = "") -> None:
        """Raises DataInvalid where the workers, or another attempt, could not get the same batches from it."""
        self.of, self._dataset, self._council = of, dataset, council
        spec = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)
        self.like = keras.tree.map_structure(self._leaf, spec)
        size = int(dataset.cardinality())
        self.is_endless = size == tf.data.INFINITE_CARDINALITY
        self.steps = size if size >= 0 else None
        nodes = _nodes(dataset)
        self._check_order(nodes)
        self._reading: OwnReading | None = None
        self._place = (1, 0)
        self.replays = any(name in node.op for node in nodes for name in _MOVING)

    def batches(self, number: int, first: int = 0) -> Iterator[Arrays]:
        """Yields the batches of a pass from batch `first` on. Collective: every worker iterates this."""
        skipped = 0 if self.replays else first
        mine: Iterator[Arrays]
        if self._reading is not None:
            mine = self._reading.batches(*self._place, skipped)
        else:
            elements = (self._dataset.skip(skipped) if skipped else self._dataset).as_numpy_iterator()
            mine = (batch_of(element, self.of) for element in elements)
        return itertools.islice(agreed(mine, self._council, f"the {self.of}tf.data pipeline"), first - skipped, None)

    def share_out(self, replicas: int, replica: int) -> None:
        """Lets the batches load the rows of one replica alone, where the pipeline tells what that takes."""
        if self._place != (replicas, replica):
            self._reading, self._place = own_reading(self._dataset, self.of), (replicas, replica)

    def describe(self) -> str:
        """Returns what another attempt must find the same."""
        return f"tf.data, {self.steps} batches of {self._dataset.element_spec}"

    def _leaf(self, spec: Any) -> Leaf | None:
        if spec is None:
            return None
        if not isinstance(spec, tf.TensorSpec) or spec.shape.rank is None or spec.dtype == tf.string:
            raise DataInvalid(f"{self.of}x is a tf.data pipeline of {spec}: expected dense tensors of numbers and known rank.")
        if spec.shape.rank == 0:
            raise DataInvalid(
                f"{self.of}x is a tf.data pipeline of single values, {spec}. Batch it: dataset.batch(global_batch)."
            )
        dtype = keras.config.floatx() if spec.dtype.is_floating and spec.dtype != tf.float16 else spec.dtype.name
        return Leaf((None, *spec.shape[1:]), dtype)

    def _check_order(self, nodes: list[Any]) -> None:
        if self._dataset.options().deterministic is False:
            raise DataInvalid(
                f"{self.of}x is a tf.data pipeline with options().deterministic = False: its batches come in another order "
                "each time, and on each worker. Leave the option out."
            )
        numbers = (node for node in nodes if node.op == "Const" and node.attr["dtype"].type == tf.int64.as_datatype_enum)
        constants = {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in numbers}
        for node in nodes:
            if node.op.startswith("ShuffleDataset"):
                seeds = [constants.get(name.partition(":")[0]) for name in node.input[2:4]]
                if all(seed is not None and int(seed) == 0 for seed in seeds):
                    raise DataInvalid(
                        f"{self.of}x is a tf.data pipeline with shuffle() and no seed: every worker would draw its own "
                        "order. Give it one, shuffle(n, seed=7), or call keras.utils.set_random_seed first."
                    )


def _nodes(dataset: Any) -> list[Any]:
    """Returns the operations of the pipeline, those of its functions too."""
    variant = tf.data.experimental.to_variant(dataset)
    text = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=0, strip_device_assignment=True)
    graph = tf.compat.v1.GraphDef.FromString(text.numpy())
    # What a GraphDef calls its library holds the functions of map, filter and the like.
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
