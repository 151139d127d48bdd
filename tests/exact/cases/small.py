"""The data and the models that most cases share: 17 rows in batches of 8, 8 and 1.

With two replicas the last batch leaves one of them idle, with three it leaves two.
"""

import sys
from typing import Any

import keras
import numpy as np
from keras import layers

from tests.exact.models import Case, uneven_weights

ROWS, BATCH, EPOCHS = 17, 8, 2


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns [ROWS, *shape] normal numbers."""
    return np.random.RandomState(seed).randn(ROWS, *shape)


def labels(classes: int, *shape: int, seed: int = 1) -> np.ndarray:
    """Returns [ROWS, *shape] class numbers."""
    return np.random.RandomState(seed).randint(0, classes, (ROWS, *shape))


def positive_weights(*shape: int) -> np.ndarray:
    """Returns [ROWS, *shape] uneven weights above zero, whose sum is far from zero in every batch."""
    return np.abs(uneven_weights(ROWS * int(np.prod(shape, dtype=int))).reshape(ROWS, *shape)) + 0.01


def lengths(steps: int) -> np.ndarray:
    """Returns [ROWS, steps] booleans: how much of each sequence there is, least of all on the first replica's rows."""
    wanted = np.array([1, 1, 1, 1, 6, 6, 5, 6, 3, 2, 6, 1, 4, 6, 6, 2, 3])
    return np.arange(steps) < wanted[:, None]


def dense(outputs: int, activation: Any = None, features: int = 4) -> keras.Sequential:
    """Returns a model of two layers."""
    return keras.Sequential([keras.Input((features,)), layers.Dense(5, "tanh"), layers.Dense(outputs, activation)])


def case(model: Any, x: Any, y: Any = None, loss: Any = "mse", optimizer: Any = None, fit: Any = None, **compiled: Any) -> Case:
    """Returns the case of a model compiled with `compiled` and fitted with `fit` besides x and y; see `predicting`."""
    model.compile(optimizer or keras.optimizers.SGD(0.05), loss, **compiled)
    return Case(model, dict(x=x, y=y, batch_size=BATCH, epochs=EPOCHS, **(fit or {})), predicts=False)


def predicting(kept: Case) -> Case:
    """Returns the case with its predictions compared too: for what acts in another way then, or has a form of its own."""
    return kept._replace(predicts=True)


def regression(loss: Any = "mse", optimizer: Any = None, fit: Any = None, outputs: int = 2, **compiled: Any) -> Case:
    """Returns the case of [ROWS, 4] numbers and [ROWS, outputs] targets, with uneven weights unless `fit` brings its own."""
    y = numbers(outputs, seed=2) + 1.0
    fit = {"sample_weight": uneven_weights(ROWS)} if fit is None else fit
    return case(dense(outputs), numbers(4), y, loss, optimizer, fit, **compiled)


def rare(function: Any) -> Any:
    """Marks a case that others nearly cover: `make soak` runs it, `make test` does not."""
    function.is_rare = True
    return function


def cases(module: str) -> tuple[list[str], list[str]]:
    """Returns the module's public functions that return a case as "module:function": all of them, and the rare ones."""
    functions = {
        f"{module}:{name}": function
        for name, function in vars(sys.modules[module]).items()
        if getattr(function, "__module__", None) == module
        and not name.startswith("_")
        and getattr(function, "__annotations__", {}).get("return") is Case
    }
    return list(functions), [name for name, function in functions.items() if hasattr(function, "is_rare")]
