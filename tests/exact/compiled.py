"""Whole steps compiled by XLA; run inside worker processes."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import service
from service.data.sources import Arrays
from service.exact import group
from service.training.prepare import build, step_for
from tests.exact import parity

X = np.random.RandomState(0).randn(24, 5)
Y = X.sum(1, keepdims=True)
W = np.random.RandomState(1).rand(24) + 0.5


def noisy(jit: bool) -> Any:
    """Returns a compiled model with noise, statistics, weights to its loss, and clipping."""
    keras.utils.set_random_seed(3)
    hidden = [layers.Dense(6, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.3), layers.GaussianNoise(0.1)]
    model = keras.Sequential([keras.Input((5,)), *hidden, layers.Dense(1)])
    optimizer = keras.optimizers.Adam(0.05, global_clipnorm=0.5)
    model.compile(optimizer, "mse", weighted_metrics=["mae"], jit_compile=jit)
    return model


def _apart(mine: list[np.ndarray], other: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) for a, b in zip(mine, other, strict=True))


def _left(model: Any, history: Any) -> list[np.ndarray]:
    return [*model.get_weights(), *map(np.array, history.history.values())]


def from_stock(rows: int, jit: bool) -> tuple[float, int]:
    """Returns how far `service.fit` ends from stock Keras, compiled alike, and how often XLA compiled the training step."""
    stock = noisy(jit)
    kept = _left(stock, stock.fit(X[:rows], Y[:rows], sample_weight=W[:rows], batch_size=8, epochs=3, shuffle=False, verbose=0))
    ours = noisy(jit)
    arguments = {"sample_weight": W[:rows], "batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
    left = _left(ours, service.fit(ours, X[:rows], Y[:rows], **arguments))
    step = step_for(ours, group.of(None), Arrays(X, Y, W).like)
    return _apart(left, kept), step.compiler == "XLA"


def streams() -> tuple[float, float]:
    """Returns how far training ends from itself with another compiler, without noise and with it."""
    left = []
    for jit in (True, False):
        model = noisy(jit)
        left.append(_left(model, model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)))
    return _apart(*left)


def cores() -> float:
    """Returns how far two replicas that share the rows as TPU cores do end from one device."""
    one = noisy(False)
    arguments = {"sample_weight": W, "batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
    kept = _left(one, one.fit(X, Y, **arguments))
    with _as_cores():
        model = noisy(False)
        return _apart(_left(model, service.fit(model, X, Y, **arguments)), kept)


def uneven() -> None:
    """Trains two such replicas on 24 rows in batches of 10, which leaves 4, then of 9."""
    with _as_cores():
        model = noisy(False)
        service.fit(model, X, Y, batch_size=10, verbose=0)
        service.fit(model, X, Y, batch_size=9, verbose=0)


@contextlib.contextmanager
def _as_cores() -> Iterator[None]:
    strategy = parity.mirrored()
    cores = group.CoreGroup(strategy)
    with mock.patch.object(group, "of", lambda holder: cores), strategy.scope():
        yield


class Core(group.Group):
    """The second of two cores; nobody answers, so a sum is its own part."""

    size = 2
    index = 1
    compiler = "XLA"
    own_rows = group.CoreGroup.own_rows


def compiles_for_a_core() -> list[float]:
    """Compiles by XLA the whole step of one core among two, and returns its loss and its metrics."""
    model = noisy(False)
    like = Arrays(X, Y, W).like
    build(model, like)
    step = step_for(model, Core(), like)
    signature = [step.inputs.signature, step.numbers, tf.TensorSpec([None], "float64")]
    compiled = tf.function(step._train, signature, jit_compile=True, autograph=False)
    flat = [tf.constant(part[:8]) for part in (X, Y, W)]
    results, _, loss = compiled(flat, tf.constant([0, 8, 8, 0, 0, 0]), tf.constant([W[:8].sum()]))
    return [float(loss), *map(float, step.logs(results).values())]


def refused(name: str) -> None:
    """Trains a model that was made in the scope of a strategy whose replicas do not wait for each other."""
    if name == "CentralStorageStrategy":
        strategy = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"], "CPU:0")
    else:
        strategy = object.__new__(tf.distribute.ParameterServerStrategy)  # its cluster is no matter here
    group.of(strategy)
