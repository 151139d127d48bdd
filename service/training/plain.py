"""Plain Python values as strict JSON, their arrays beside them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def is_plain(value: Any) -> bool:
    """Whether a value is numbers, text, None or arrays, or lists, tuples and dicts of them."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fiub"
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def pack(value: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    """Returns a plain value as strict JSON, its arrays moved to `tensors`."""
    if isinstance(value, dict):
        packed = {key: pack(item, f"{name}/{key}", tensors) for key, item in value.items()}
        return packed if list(packed) == sorted(packed) else {"$items": [list(item) for item in packed.items()]}
    if isinstance(value, list):
        return [pack(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"$tuple": pack(list(value), name, tensors)}
    if isinstance(value, np.ndarray):
        tensors[name] = value.copy()
        return {"$tensor": name}
    if isinstance(value, np.generic):
        return pack(value.item(), name, tensors)
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    return value


def unpack(value: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """Returns what `pack` was given."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$items" in value:  # the keys in their order, where that is not the alphabet's
        return {key: unpack(item, tensors) for key, item in value["$items"]}
    if "$tuple" in value:
        return tuple(unpack(value["$tuple"], tensors))
    if "$tensor" in value:
        return np.array(tensors[value["$tensor"]])
    if "$float" in value:
        return float(value["$float"])
    return {key: unpack(item, tensors) for key, item in value.items()}


def unchanged(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the plain values by name that are the same now as before, arrays by their bits."""
    return {name: value for name, value in before.items() if name in now and _is_same(value, now[name])}


def _is_same(one: Any, other: Any) -> bool:
    ones: dict[str, np.ndarray] = {}
    others: dict[str, np.ndarray] = {}
    if type(one) is not type(other) or pack(one, "", ones) != pack(other, "", others) or ones.keys() != others.keys():
        return False
    return all(
        (a.dtype, a.shape, a.tobytes()) == (others[k].dtype, others[k].shape, others[k].tobytes()) for k, a in ones.items()
    )
