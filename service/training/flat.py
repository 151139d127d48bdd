"""What goes into a compiled step and comes out of it, as flat tensors."""

from typing import Any

import keras
import tensorflow as tf


class Inputs:
    """Data of one structure: (x, y, sample_weight), nested as the author's, each array [rows, ...].

    Attributes:
        signature: what a compiled step takes of them: the tensors there are, flat, of any number of rows.
    """

    def __init__(self, like: Any) -> None:
        self._structure = keras.tree.map_structure(lambda leaf: None if leaf is None else 0, like)
        self.signature = [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in keras.tree.flatten(like) if t is not None]

    def packed(self, flat: Any) -> Any:
        """Returns flat tensors as (x, y, sample_weight)."""
        remaining = iter(flat)
        leaves = [None if leaf is None else next(remaining) for leaf in keras.tree.flatten(self._structure)]
        return keras.tree.pack_sequence_as(self._structure, leaves)

    @staticmethod
    def weight_sums(data: Any, sums: Any) -> dict[int, Any]:
        """Returns the sums over the global batch by the id of the weight tensor."""
        weights = [t for t in keras.tree.flatten(data[2]) if t is not None]
        return {id(t): sums[i] for i, t in enumerate(weights)}


class Results:
    """Values by name; the scalars travel as one vector, which is one copy to the host."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def packed(self, values: dict[str, Any], loss: Any = None) -> tuple[Any, dict[str, Any]]:
        """Returns the scalars as a vector, behind them the batch's own loss if it is given, and the other values by name."""
        tensors = {name: tf.convert_to_tensor(value) for name, value in values.items()}
        scalars = {name: value for name, value in tensors.items() if value.shape.rank == 0}
        self._names = list(scalars)
        vector = [tf.cast(value, keras.config.floatx()) for value in (*scalars.values(), *(() if loss is None else (loss,)))]
        others = {name: value for name, value in tensors.items() if name not in scalars}
        return tf.stack(vector) if vector else tf.zeros([0], keras.config.floatx()), others

    def by_name(self, results: Any) -> dict[str, Any]:
        """Returns what was packed: floats, or arrays where a value is no scalar."""
        return self.with_loss(results)[0]

    def with_loss(self, results: Any) -> tuple[dict[str, Any], float | None]:
        """Returns the same, and the batch's own loss where that was packed too."""
        numbers, others = results
        values = numbers.numpy().tolist()
        named = dict(zip(self._names, values, strict=False)) | {k: v.numpy() for k, v in others.items()}
        return named, values[-1] if len(values) > len(self._names) else None
