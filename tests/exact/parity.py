"""Trains a case with stock Keras on one device and with service.fit, and measures the difference."""

import contextlib
import functools
import importlib
from typing import Any, NamedTuple

import keras
import ml_dtypes
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


def made(name: Any) -> Any:
    """Returns a case, from the same seeds each time: by "module:function", or of an object that makes one."""
    keras.utils.set_random_seed(11)
    if not isinstance(name, str):
        return name.case()
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)()


def stock(name: Any, ulp: bool = False, holder: tf.distribute.Strategy | None = None) -> Trained:
    """Stock Keras, on one device unless there is a holder, without shuffling.

    With `ulp` its data are moved by one unit in the last place of the numbers that it computes in.
    """
    with _scope(holder):
        case = made(name)
    arguments = {**case.arguments, **case.corrected}
    if ulp:
        given = {key: arguments[key] for key in DATA if arguments.get(key) is not None}
        arguments |= keras.tree.map_structure(lambda array: _moved(array, case.computes_in), given)
    if case.model.built:
        case.model.optimizer.build(case.model.trainable_variables)  # or Keras traces the step twice, which takes as long again
    history = case.model.fit(**arguments, shuffle=False, verbose=0).history
    return _trained(case, history, case.model.predict)


def ours(name: Any, holder: tf.distribute.Strategy | None = None, **changes: Any) -> Trained:
    """The same through service.fit, with some other arguments, and service.predict. Collective: all call this."""
    with _scope(holder):
        case = made(name)
    history = service.fit(case.model, **{**case.arguments, **changes}, shuffle=False, verbose=0).history
    return _trained(case, history, functools.partial(service.predict, case.model))


def ours_on_replicas(name: Any) -> Trained:
    """The same on two replicas in this process."""
    return ours(name, mirrored())


def difference(one: Trained, other: Trained) -> Difference:
    """Returns how far `other` is from `one`; infinite where their shapes or names differ."""
    if list(one.history) != list(other.history):
        return Difference(np.inf, np.inf, np.inf)
    # In a graph Keras counts every batch once in an output's own loss, whatever its rows; a test of its own looks at ours.
    compared = [name for name in one.history if not name.endswith("_loss") or name == "val_loss"]
    return Difference(
        largest(one.weights, other.weights),
        largest([np.array(one.history[k]) for k in compared], [np.array(other.history[k]) for k in compared]),
        largest(one.predictions, other.predictions),
    )


def compare(name: Any, kind: str = "workers") -> Difference | None:
    """Returns the difference from stock Keras on the chief. Collective: every worker calls this."""
    result = ours(name, mirrored() if kind == "replicas" else None)
    return difference(stock(name), result) if Council(strategy.connected()).index == 0 else None


def stock_sgd_step(name: str) -> list[np.ndarray]:
    """Returns the variables after one step of SGD with stock Keras."""
    return _one_step(keras.Model.fit, made(name))


def our_sgd_step(name: str) -> list[np.ndarray]:
    """The same through service.fit. Collective: every worker calls this."""
    return _one_step(service.fit, made(name))


def largest(ones: list[np.ndarray], others: list[np.ndarray]) -> float:
    """Returns the largest difference of the arrays, each over max(1, largest entry)."""
    worst = 0.0
    for one, other in zip(ones, others, strict=True):
        if one.shape != other.shape:
            return np.inf
        if one.size:
            scale = max(1.0, float(np.abs(one.astype("float64")).max()))
            gap = np.abs(one.astype("float64") - other.astype("float64")).max() / scale
            worst = max(worst, float(gap) if np.isfinite(gap) else np.inf)
    return worst


_STRATEGIES: list[Any] = []


def mirrored() -> Any:
    """Returns one MirroredStrategy of two CPU devices for the process: TensorFlow mixes up the collectives of several."""
    if not _STRATEGIES:
        _STRATEGIES.append(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    return _STRATEGIES[0]


def _scope(holder: tf.distribute.Strategy | None) -> Any:
    return holder.scope() if holder else contextlib.nullcontext()


def _one_step(fit: Any, case: Any) -> list[np.ndarray]:
    case.model.optimizer = keras.optimizers.SGD(0.05)
    size = case.arguments["batch_size"]
    given = {key: case.arguments[key] for key in DATA if key in case.arguments}
    rows = keras.tree.map_structure(lambda array: array[:size], given)
    fit(case.model, **rows, epochs=1, batch_size=size, shuffle=False, verbose=0)
    return [keras.ops.convert_to_numpy(v) for v in case.model.variables]


def _moved(array: np.ndarray, computes_in: str) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    if computes_in:
        return array * (1.0 + float(ml_dtypes.finfo(computes_in).eps))
    return np.nextafter(array.astype(keras.config.floatx()), np.inf)


def _trained(case: Any, history: dict[str, list[float]], predict: Any) -> Trained:
    size = case.arguments["batch_size"]
    predictions = predict(case.arguments["x"], batch_size=size, verbose=0) if case.predicts else []
    variables = [*case.model.variables, *case.model.optimizer.variables]
    return Trained([keras.ops.convert_to_numpy(v) for v in variables], history, keras.tree.flatten(predictions))
