"""A dozen of the cases of tests/exact in legacy tf_keras, with the same data: two replicas against one device."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tests.exact import parity
from tests.exact.cases.optimizers import LARGE
from tests.exact.cases.small import BATCH, EPOCHS, ROWS, labels, lengths, numbers
from tests.exact.models import uneven_weights


def distance(name: str) -> float:
    """Returns the difference of the trained weights on two replicas, over the way they went on one device."""
    before, one = _trained(CASES[name], None)
    return over_way(before, one, _trained(CASES[name], parity.mirrored())[1])


def over_way(before: list[np.ndarray], one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Returns the largest difference of `other` from `one`, over the largest way from `before` to `one`."""
    way, gap = (
        float(
            np.max([np.abs(a - b).max() for a, b in zip(*pair, strict=True)])
        )  # a NaN stays one, as in Python's max it may not
        for pair in ((before, one), (one, other))
    )
    return gap / way if way else gap


def _trained(build: Callable[[Any], Any], holder: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    import tf_keras as keras

    keras.backend.set_floatx("float64")
    keras.utils.set_random_seed(11)
    with holder.scope() if holder else contextlib.nullcontext():
        model, data = build(keras)
    before = model.get_weights()
    model.fit(**data, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    trainable = {id(variable) for variable in model.trainable_variables}
    places = [i for i, variable in enumerate(model.weights) if id(variable) in trainable]
    after = model.get_weights()
    return [before[i] for i in places], [after[i] for i in places]


def _regression(k: Any, loss: Any = "mse", optimizer: Any = None, weights: Any = None, hidden: Any = ()) -> Any:
    model = k.Sequential([k.Input((4,)), k.layers.Dense(5, "tanh"), *hidden, k.layers.Dense(2)])
    model.compile(optimizer or k.optimizers.SGD(0.05), loss)
    return model, dict(x=numbers(4), y=numbers(2, seed=2) + 1.0, sample_weight=weights)


def _clipped(k: Any, **clip: float) -> Any:
    return _regression(k, optimizer=k.optimizers.SGD(0.05, **clip), weights=LARGE["sample_weight"])


def _batch_mean(k: Any) -> Any:
    return _regression(k, lambda y_true, y_pred: tf.reduce_mean(tf.square(y_true - y_pred)))


def _added(k: Any) -> Any:
    class Energy(k.layers.Layer):
        def call(self, inputs: Any) -> Any:
            self.add_loss(tf.reduce_sum(tf.square(inputs), -1))
            return inputs

    model = k.Sequential([k.Input((4,)), k.layers.Dense(3), Energy()])
    model.compile(k.optimizers.SGD(0.01), loss=None)
    return model, dict(x=numbers(4))


def _masked(k: Any) -> Any:
    x = numbers(6, 3) * lengths(6)[..., None]
    recurrent = k.layers.GRU(4, return_sequences=True)
    model = k.Sequential([k.Input((6, 3)), k.layers.Masking(), recurrent, k.layers.Dense(2)])
    model.compile(k.optimizers.SGD(0.05), "mse")
    return model, dict(x=x, y=numbers(6, 2, seed=2))


def _masked_and_weighted(k: Any) -> Any:
    ids = np.where(lengths(6), 1 + labels(8, 6), 0)
    model = k.Sequential([k.Input((6,), dtype="int32"), k.layers.Embedding(9, 4, mask_zero=True), k.layers.Dense(1)])
    model.compile(k.optimizers.SGD(0.05), "mse")
    weights = uneven_weights(ROWS * 6).reshape(ROWS, 6)
    return model, dict(x=ids, y=numbers(6, 1, seed=2), sample_weight=weights)


def _overflow(k: Any) -> Any:
    y, weights = numbers(1, seed=2), np.ones(ROWS)
    y[7], weights[7] = 1.5, 2.0**900
    model = k.Sequential([k.Input((4,)), k.layers.Dense(3, "tanh"), k.layers.Dense(1, kernel_initializer="zeros")])
    inner = k.optimizers.SGD(0.001, momentum=0.9, clipvalue=1.0)
    model.compile(k.mixed_precision.LossScaleOptimizer(inner, initial_scale=2.0**126), "mse")
    return model, dict(x=numbers(4), y=y, sample_weight=weights)


def _averaged(k: Any) -> Any:
    optimizer = k.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=2)
    return _regression(k, optimizer=optimizer, weights=uneven_weights(ROWS))


def _noisy(k: Any) -> Any:
    noise = [k.layers.GaussianNoise(0.5, seed=1), k.layers.GaussianDropout(0.3, seed=2), k.layers.AlphaDropout(0.3, seed=3)]
    return _regression(k, hidden=noise)


CASES: dict[str, Callable[[Any], Any]] = {
    "losses.mean_of_the_batch": _batch_mean,
    "losses.reduction_sum": lambda k: _regression(k, k.losses.MeanSquaredError(reduction="sum"), k.optimizers.SGD(0.005)),
    "models.added_rows": _added,
    "losses.masking": _masked,
    "losses.mask_and_weights_of_each_step": _masked_and_weighted,
    "weights.one_a_sample": lambda k: _regression(k, weights=uneven_weights(ROWS)),
    "optimizers.clipped_by_norm": lambda k: _clipped(k, clipnorm=0.5),
    "optimizers.clipped_by_global_norm": lambda k: _clipped(k, global_clipnorm=0.5),
    "optimizers.clipped_by_value": lambda k: _clipped(k, clipvalue=0.2),
    "optimizers.overflow_on_one_replica": _overflow,
    "optimizers.averaged_weights_that_overwrite": _averaged,
    "layers.statistics_far_from_zero": lambda k: _regression(k, hidden=[k.layers.BatchNormalization(momentum=0.7)]),
    "layers.gaussian_noise": _noisy,
}
