"""Trains a case twice, with stock Keras on one device and with service.fit, and measures the difference."""

import contextlib
import importlib
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import service
from service.cluster import strategy
from service.cluster.consensus import Council

DATA = ("x", "y", "sample_weight")


class Difference(NamedTuple):
    """The largest differences of ours from stock Keras, each over max(1, largest entry)."""

    weights: float
    history: float
    predictions: float


class Trained(NamedTuple):
    """What a training left: all weights (optimizer's too), the history, predictions."""

    weights: list[np.ndarray]
    history: dict[str, list[float]]
    predictions: list[np.ndarray]


def made(name: str) -> Any:
    """Returns a case by "module:function", from the same seeds each time."""
    module, function = name.split(":")
    keras.utils.set_random_seed(11)
    return getattr(importlib.import_module(module), function)()


def stock(name: str, ulp: bool = False, **changes: Any) -> Trained:
    """Stock Keras on one device, without shuffling; with `ulp` its data are moved by one unit in the last place."""
    case = made(name)
    arguments = {**case.arguments, **changes}
    if ulp:
        arguments |= {key: keras.tree.map_structure(_moved, arguments[key]) for key in DATA if key in arguments}
    history = case.model.fit(**arguments, shuffle=False, verbose=0).history
    return _trained(case.model, history, case.model.predict(case.arguments["x"], batch_size=arguments["batch_size"], verbose=0))


def ours(name: str, holder: tf.distribute.Strategy | None = None, **changes: Any) -> Trained:
    """The same through service.fit and service.predict. Collective: every worker calls this."""
    with holder.scope() if holder else contextlib.nullcontext():
        case = made(name)
    arguments = {**case.arguments, **changes}
    history = service.fit(case.model, **arguments, shuffle=False, verbose=0).history
    predictions = service.predict(case.model, case.arguments["x"], batch_size=arguments["batch_size"], verbose=0)
    return _trained(case.model, history, predictions)


def difference(one: Trained, other: Trained) -> Difference:
    """Returns how far `other` is from `one`; infinite where their shapes or names differ."""
    if list(one.history) != list(other.history):
        return Difference(np.inf, np.inf, np.inf)
    # In a graph Keras counts every batch once in an output's own loss, whatever its rows; a test of its own looks at ours.
    compared = [name for name in one.history if not name.endswith("_loss") or name == "val_loss"]
    return Difference(
        _largest(one.weights, other.weights),
        _largest([np.array(one.history[k]) for k in compared], [np.array(other.history[k]) for k in compared]),
        _largest(one.predictions, other.predictions),
    )


def compare(name: str, kind: str = "workers", changes: dict[str, Any] | None = None) -> Difference | None:
    """Returns the difference from stock Keras on the chief. Collective: every worker calls this."""
    result = ours(name, mirrored() if kind == "replicas" else None, **(changes or {}))
    return difference(stock(name, **(changes or {})), result) if _is_chief() else None


def one_sgd_step(name: str) -> float | None:
    """Returns the largest difference of the weights after one step of SGD. Collective: every worker calls this."""
    first = dict(epochs=1, validation_split=0.0)

    def trained(fit: Any, case: Any) -> list[np.ndarray]:
        case.model.optimizer = keras.optimizers.SGD(0.05)
        size = case.arguments["batch_size"]
        given = {key: case.arguments[key] for key in DATA if key in case.arguments}
        rows = keras.tree.map_structure(lambda array: array[:size], given)
        fit(case.model, **rows, **first, batch_size=size, shuffle=False, verbose=0)
        return [keras.ops.convert_to_numpy(v) for v in case.model.variables]

    result = trained(service.fit, made(name))
    return _largest(trained(keras.Model.fit, made(name)), result) if _is_chief() else None


def strays(name: str) -> tuple[float, float] | None:
    """Returns how far our weights are from stock Keras's, and stock Keras's from its own with moved inputs.

    Collective: every worker calls this.
    """
    result = ours(name)
    if not _is_chief():
        return None
    oracle = stock(name)
    return _largest(oracle.weights, result.weights), _largest(oracle.weights, stock(name, ulp=True).weights)


_STRATEGIES: list[Any] = []


def mirrored() -> Any:
    """Returns one MirroredStrategy of two CPU devices for the process: TensorFlow mixes up the collectives of several."""
    if not _STRATEGIES:
        _STRATEGIES.append(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    return _STRATEGIES[0]


def _moved(array: np.ndarray) -> np.ndarray:
    return np.nextafter(array.astype(keras.config.floatx()), np.inf) if array.dtype.kind == "f" else array


def _is_chief() -> bool:
    return Council(strategy.connected()).index == 0


def _trained(model: Any, history: dict[str, list[float]], predictions: Any) -> Trained:
    variables = [*model.variables, *model.optimizer.variables]
    return Trained([keras.ops.convert_to_numpy(v) for v in variables], history, keras.tree.flatten(predictions))


def _largest(ones: list[np.ndarray], others: list[np.ndarray]) -> float:
    worst = 0.0
    for one, other in zip(ones, others, strict=True):
        if one.shape != other.shape:
            return np.inf
        if one.size:
            scale = max(1.0, float(np.abs(one.astype("float64")).max()))
            gap = np.abs(one.astype("float64") - other.astype("float64")).max() / scale
            worst = max(worst, float(gap) if np.isfinite(gap) else np.inf)
    return worst
