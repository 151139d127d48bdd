"""Sample weights: what is given per sample or per class, checked."""

from typing import Any

import keras
import numpy as np

from service.data.sources import Arrays
from service.errors import DataInvalid


def check(source: Arrays) -> None:
    """Refuses weights that are NaN or infinite; zero and negative ones are legal.

    Raises:
        DataInvalid: naming the argument and the first bad row.
    """
    for name, leaf in source.leaves():
        if not name.startswith(source.of + "sample_weight"):
            continue
        finite = np.isfinite(leaf)
        if not finite.all():
            row = int(np.argwhere(~finite)[0][0])
            raise DataInvalid(
                f"{name} is {leaf[row]!r} at row {row}: expected finite weights, since one that is not makes every weight "
                "of the model NaN. Give a row that shall not count the weight 0."
            )


def with_class_weight(source: Arrays, class_weight: dict[int, float] | None) -> Arrays:
    """Returns the data with each sample's weight multiplied by its class's; a class that is not named weighs 1.

    Raises:
        DataInvalid: there are several outputs, or no y.
    """
    if class_weight is None:
        return source
    x, y, sample_weight = source.like
    if y is None or keras.tree.is_nested(y) or not isinstance(class_weight, dict):
        raise DataInvalid(
            f"class_weight={class_weight!r} needs one y of class numbers or one-hot rows, and a dict of class: weight. "
            "With several outputs give sample_weight, one array an output."
        )
    if wrong := {label: weight for label, weight in class_weight.items() if not np.isfinite(weight)}:
        raise DataInvalid(f"class_weight={wrong!r}: expected finite weights. Give a class that shall not count the weight 0.")
    classes = _classes(y)
    weights = np.array([class_weight.get(int(label), 1.0) for label in classes], dtype=keras.config.floatx())
    if sample_weight is not None:
        weights = weights.reshape([-1] + [1] * (sample_weight.ndim - 1)) * sample_weight
    return Arrays(x, y, weights)


def _classes(y: np.ndarray) -> Any:
    if y.ndim > 1 and y.shape[-1] > 1:
        return np.argmax(y, axis=-1).reshape(-1)
    return np.round(y).astype("int64").reshape(-1)
