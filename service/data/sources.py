"""Where rows come from: arrays, sliced by index."""

import hashlib
from typing import Any

import keras
import numpy as np

from service.cluster.consensus import digest
from service.errors import DataInvalid


class Arrays:
    """Data held in memory as arrays that share their first dimension.

    Attributes:
        like: (x, y, sample_weight) as the author nested them, with arrays for leaves or None.
        size: the number of rows.
    """

    def __init__(self, x: Any, y: Any = None, sample_weight: Any = None, of: str = "") -> None:
        """Raises DataInvalid when lengths differ or there is no row, naming the argument, with `of` in front."""
        self.of = of
        named = {"x": x, "y": y, "sample_weight": sample_weight}
        arrays = {name: keras.tree.map_structure(_array, _with_arrays(value)) for name, value in named.items()}
        self.like = (arrays["x"], arrays["y"], arrays["sample_weight"])
        lengths = {path: len(leaf) for name, value in arrays.items() for path, leaf in _leaves(of + name, value)}
        if not lengths:
            raise DataInvalid(f"{of}x is None: expected the whole data set as an array, a list or a dict of arrays.")
        if len(set(lengths.values())) > 1:
            given = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise DataInvalid(
                f"Arrays of different lengths: {given} rows. Every array has one row a sample: give them the same length."
            )
        self.size = next(iter(lengths.values()))
        if self.size == 0:
            raise DataInvalid(f"{', '.join(lengths)}: the arrays have no rows; expected at least one sample.")
        self._flat = [leaf for leaf in keras.tree.flatten(self.like) if leaf is not None]
        weights = keras.tree.flatten(self.like[2])
        self._weights = [leaf for leaf in weights if leaf is not None]

    def rows(self, places: slice | np.ndarray) -> list[np.ndarray]:
        """Returns the flat leaves' rows at the places, [b, ...] each."""
        return [leaf[places] for leaf in self._flat]

    def inputs(self) -> "Arrays":
        """Returns x alone."""
        return Arrays(self.like[0], of=self.of)

    def weight_sums(self, places: slice | np.ndarray) -> np.ndarray:
        """Returns [weights] floats: each sample weight summed over the rows."""
        sums = [np.sum(leaf[places], dtype=np.float64) for leaf in self._weights]
        return np.asarray(sums, dtype=keras.config.floatx())

    def split(self, fraction: float) -> tuple["Arrays", "Arrays"]:
        """Returns the first rows and the last: the last are `fraction` of all, as Keras's validation_split cuts them."""
        at = int(np.floor(self.size * (1.0 - fraction)))
        if not 0.0 < fraction < 1.0 or at == 0 or at == self.size:
            raise DataInvalid(
                f"validation_split={fraction} leaves {at} of {self.size} rows to train and {self.size - at} to validate; "
                "expected a fraction between 0 and 1 that leaves some of both."
            )

        def part(rows: slice) -> "Arrays":
            return Arrays(*keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[rows], self.like))

        return part(slice(0, at)), part(slice(at, None))

    def fingerprint(self) -> str:
        """Returns text that tells these arrays from any others: a SHA-256 of their names, shapes, types and content."""
        whole = hashlib.sha256()
        for name, leaf in self.leaves():
            whole.update(name.encode() + digest(leaf).tobytes())
        return whole.hexdigest()

    def leaves(self) -> list[tuple[str, np.ndarray]]:
        """Returns each array with the argument's name and its path in it, such as ("y['labels']", array)."""
        return [
            pair
            for name, value in zip(("x", "y", "sample_weight"), self.like, strict=True)
            for pair in _leaves(self.of + name, value)
        ]


def _leaves(name: str, value: Any) -> list[tuple[str, np.ndarray]]:
    named = keras.tree.flatten_with_path(value)
    return [(name + "".join(f"[{part!r}]" for part in path), leaf) for path, leaf in named if leaf is not None]


def _with_arrays(value: Any) -> Any:
    """Returns the value with each list of numbers, of which Keras makes an array too, as an array."""
    if isinstance(value, dict):
        return {key: _with_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, int | float | np.generic) for item in value):
            return np.asarray(value)
        return type(value)(map(_with_arrays, value)) if type(value) in (list, tuple) else value
    return value


def _array(leaf: Any) -> np.ndarray | None:
    if leaf is None:
        return None
    array = leaf.numpy() if hasattr(leaf, "numpy") else leaf.to_numpy() if hasattr(leaf, "to_numpy") else np.asarray(leaf)
    if array.dtype == object:
        raise DataInvalid(f"An array has dtype object, shape {array.shape}: expected numbers. Convert it to one numeric dtype.")
    if array.ndim == 0:
        raise DataInvalid(f"A single value, {array!r}, stands where an array is expected: one row a sample.")
    if array.dtype.kind == "f" and array.dtype != np.dtype("float16"):
        return array.astype(keras.config.floatx(), copy=False)
    return array
