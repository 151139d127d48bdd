"""Optimizers: each sees the gradients of the whole batch, so its state is one device's."""

from typing import Any

import keras
import numpy as np
from keras import layers

from tests.exact.cases.small import ROWS, case, cases, numbers, positive_weights, rare, regression
from tests.exact.models import Case, uneven_weights

LARGE = {"sample_weight": 30.0 * positive_weights()}  # so that clipping clips


@rare
def sgd_nesterov() -> Case:
    """Momentum that looks ahead."""
    return regression(optimizer=keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True))


@rare
def adam_amsgrad() -> Case:
    """The largest second moment seen, which a replica's own would not be."""
    return regression(optimizer=keras.optimizers.Adam(0.02, amsgrad=True))


@rare
def adamw() -> Case:
    """Weight decay beside the gradient, with variables left out by name."""
    optimizer = keras.optimizers.AdamW(0.02, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return regression(optimizer=optimizer)


@rare
def sgd_with_weight_decay() -> Case:
    """Weight decay in an optimizer that does not have it of its own."""
    return regression(optimizer=keras.optimizers.SGD(0.05, weight_decay=0.05))


@rare
def rmsprop() -> Case:
    """Centred second moments with momentum."""
    return regression(optimizer=keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True))


@rare
def adagrad() -> Case:
    """Squares that pile up."""
    return regression(optimizer=keras.optimizers.Adagrad(0.1))


@rare
def muon() -> Case:
    """Orthogonal updates of matrices and Adam's of the rest, with a weight decay for each."""
    return regression(optimizer=keras.optimizers.Muon(0.02, weight_decay=0.1, adam_weight_decay=0.05))


@rare
def adamax() -> Case:
    """Adamax's largest gradient, clipped by value."""
    return regression(optimizer=keras.optimizers.Adamax(0.02, clipvalue=0.1))


@rare
def nadam() -> Case:
    """Adam with a schedule of momentum that is a variable."""
    return regression(optimizer=keras.optimizers.Nadam(0.02))


@rare
def ftrl() -> Case:
    """Penalties inside the optimizer."""
    return regression(optimizer=keras.optimizers.Ftrl(0.1, l1_regularization_strength=0.01, l2_regularization_strength=0.01))


@rare
def lion() -> Case:
    """Only the sign of a moment: a gradient of another sign moves a weight the other way."""
    return regression(optimizer=keras.optimizers.Lion(0.01))


@rare
def adafactor() -> Case:
    """Second moments kept as rows and columns, and an update scaled by its root mean square."""
    return regression(optimizer=keras.optimizers.Adafactor(0.05))


@rare
def lamb() -> Case:
    """A trust ratio of a layer's weights and its update."""
    return regression(optimizer=keras.optimizers.Lamb(0.02))


@rare
def clipped_by_norm() -> Case:
    """Each gradient clipped by its own norm: Keras 3 under a strategy clips each replica's."""
    return regression(optimizer=keras.optimizers.SGD(0.05, clipnorm=0.5), fit=LARGE)


def clipped_by_global_norm() -> Case:
    """All gradients clipped by the norm of all."""
    return regression(optimizer=keras.optimizers.Adam(0.02, global_clipnorm=0.5), fit=LARGE)


@rare
def clipped_by_value() -> Case:
    """Each entry clipped."""
    return regression(optimizer=keras.optimizers.SGD(0.05, clipvalue=0.2), fit=LARGE)


def accumulation() -> Case:
    """An update after each second batch, by the mean of two gradients: under a strategy Keras 3 raises."""
    return regression(optimizer=keras.optimizers.Adam(0.02, gradient_accumulation_steps=2, global_clipnorm=0.5))


@rare
def averaged_weights() -> Case:
    """An average of the weights that the model gets at the end."""
    return regression(optimizer=keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.8))


def averaged_weights_that_overwrite() -> Case:
    """An average of the weights that the model gets after each second step."""
    return regression(optimizer=keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=2))


@rare
def exponential_decay() -> Case:
    """A rate that falls with the steps."""
    return regression(optimizer=keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.7)))


@rare
def cosine_decay_with_warm_up() -> Case:
    """A rate that rises, then falls."""
    rate = keras.optimizers.schedules.CosineDecay(0.0, 4, warmup_target=0.1, warmup_steps=2)
    return regression(optimizer=keras.optimizers.SGD(rate, momentum=0.9))


@rare
def scaled_loss() -> Case:
    """A scaled loss that never overflows, with clipping, which must see the unscaled gradients."""
    return regression(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05, clipnorm=0.5)), fit=LARGE)


def overflow_on_one_replica() -> Case:
    """The first batch's scaled gradient overflows on the last replica's rows only: all skip that step.

    The row weighs 2**900 and its error is between 1 and 2, so an eighth of the slope 2 * error times the scale 2**126 is
    more than a float64 holds (2**1024), and at half the scale it is not.
    """
    y, weights = numbers(1, seed=2), np.ones(ROWS)
    y[7], weights[7] = 1.5, 2.0**900
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(1, kernel_initializer="zeros")])
    inner = keras.optimizers.SGD(0.001, momentum=0.9, clipvalue=1.0)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**126)
    return case(model, numbers(4), y, "mse", optimizer, {"sample_weight": weights})


@rare
def constraints() -> Case:
    """Weights that must stay on a sphere, and some that must not be negative."""
    stack = [layers.Dense(5, "tanh", kernel_constraint="unit_norm"), layers.Dense(2, kernel_constraint="non_neg")]
    model = keras.Sequential([keras.Input((4,)), *stack])
    return case(model, numbers(4), numbers(2, seed=2), fit={"sample_weight": uneven_weights(ROWS)})


@rare
def frozen_layers() -> Case:
    """A layer that is not trained, beside one the loss does not reach."""
    inputs = keras.Input((4,))
    frozen = layers.Dense(5, "tanh", trainable=False)
    model = keras.Model(inputs, {"a": layers.Dense(2, name="a")(frozen(inputs)), "b": layers.Dense(1, name="b")(inputs)})
    y = {"a": numbers(2, seed=2), "b": numbers(1, seed=3)}
    return case(model, numbers(4), y, {"a": "mse", "b": None}, keras.optimizers.Adam(0.02))


def _table(optimizer: Any) -> Case:
    ids = np.random.RandomState(0).randint(0, 4, (ROWS, 3))
    model = keras.Sequential([keras.Input((3,), dtype="int32"), layers.Embedding(9, 2), layers.Flatten(), layers.Dense(1)])
    return case(model, ids, numbers(1, seed=2), "mse", optimizer, {"sample_weight": uneven_weights(ROWS)})


@rare
def table_with_adam() -> Case:
    """A table's gradient by rows: entries that no sample of the batch touched stay, though their moments are not zero."""
    return _table(keras.optimizers.Adam(0.02))


@rare
def table_with_clipping() -> Case:
    """A table's gradient by rows, in which a row may come several times, clipped by its norm."""
    return _table(keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1))


@rare
def table_with_accumulation() -> Case:
    """A table's gradients of two batches."""
    return _table(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))


CASES, RARE = cases(__name__)
