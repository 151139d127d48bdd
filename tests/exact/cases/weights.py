"""Sample weights: each form Keras takes them in, each kind of number in them."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.exact.cases.small import (
    BATCH,
    ROWS,
    case,
    cases,
    dense,
    labels,
    lengths,
    numbers,
    positive_weights,
    rare,
    regression,
)
from tests.exact.models import Case, uneven_weights


@rare
def one_a_sample() -> Case:
    """One weight a sample, some zero, some negative, some large: 50 of them on a replica and 2 on another."""
    return regression(weighted_metrics=["mae"])


@rare
def a_column() -> Case:
    """Weights of shape [n, 1]."""
    return regression(fit={"sample_weight": uneven_weights(ROWS)[:, None]}, weighted_metrics=["mae"])


def _steps(loss: Any, sample_weight: np.ndarray, **compiled: Any) -> Case:
    model = keras.Sequential([keras.Input((6, 3)), layers.Dense(2)])
    return case(model, numbers(6, 3), numbers(6, 2, seed=2), loss, fit={"sample_weight": sample_weight}, **compiled)


@rare
def one_a_step() -> Case:
    """Weights of shape [n, steps] on losses of that shape."""
    return _steps("mae", uneven_weights(ROWS * 6).reshape(ROWS, 6), weighted_metrics=["mse"])


def one_a_step_divided_by_their_sum() -> Case:
    """Weights of shape [n, steps] that also divide."""
    return _steps(keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"), positive_weights(6))


@rare
def one_a_sample_on_many_steps() -> Case:
    """Weights of shape [n] on losses of shape [n, steps] weigh all steps of a sample.

    Keras lines them up with the steps, which is an error, or wrong without a word in a batch of as many rows as steps.
    So stock Keras gets the weights as [n, steps] here.
    """
    kept = _steps("mse", uneven_weights(ROWS))
    spread = np.broadcast_to(kept.arguments["sample_weight"][:, None], (ROWS, 6))
    return kept._replace(corrected={"sample_weight": spread})


@rare
def one_a_sample_on_one_step() -> Case:
    """Weights of shape [n] on losses of shape [n, 1], where Keras does take them for samples."""
    model = keras.Sequential([keras.Input((1, 3)), layers.Dense(2)])
    fit = {"sample_weight": uneven_weights(ROWS)}
    return case(model, numbers(1, 3), numbers(1, 2, seed=2), fit=fit)


@rare
def one_a_sample_under_a_mask() -> Case:
    """Weights of shape [n] on masked steps; stock Keras gets them as [n, steps]."""
    x = numbers(6, 3) * lengths(6)[..., None]
    model = keras.Sequential([keras.Input((6, 3)), layers.Masking(), layers.Dense(2)])
    weights = uneven_weights(ROWS)
    kept = case(model, x, numbers(6, 2, seed=2), fit={"sample_weight": weights})
    return kept._replace(corrected={"sample_weight": np.broadcast_to(weights[:, None], (ROWS, 6))})


def _two_outputs(outputs: Any, y: Any, loss: Any, sample_weight: Any, **compiled: Any) -> Case:
    inputs = keras.Input((4,))
    made = {name: layers.Dense(size, name=name)(inputs) for name, size in (("a", 2), ("b", 1))}
    model = keras.Model(inputs, made if outputs is dict else list(made.values()))
    return case(model, numbers(4), y, loss, fit={"sample_weight": sample_weight}, **compiled)


@rare
def a_list() -> Case:
    """An array of weights for each of two outputs, one loss divided by their sum."""
    loss = ["mse", keras.losses.MeanAbsoluteError(reduction="mean_with_sample_weight")]
    y = [numbers(2, seed=2), numbers(1, seed=3)]
    weights = [uneven_weights(ROWS), positive_weights()]
    return _two_outputs(list, y, loss, weights, weighted_metrics=[["mae"], ["mse"]])


@rare
def a_dict() -> Case:
    """Weights by the outputs' names."""
    y = {"a": numbers(2, seed=2), "b": numbers(1, seed=3)}
    weights = {"a": uneven_weights(ROWS), "b": uneven_weights(ROWS, 2)}
    return _two_outputs(dict, y, {"a": "mse", "b": "mae"}, weights, weighted_metrics={"b": ["mse"]})


@rare
def a_list_with_none() -> Case:
    """Weights for the first output only."""
    return _two_outputs(list, [numbers(2, seed=2), numbers(1, seed=3)], ["mse", "mae"], [uneven_weights(ROWS), None])


def zeros_on_one_replica() -> Case:
    """The first rows of each batch weigh nothing, so a replica has no weight to divide by."""
    weights = np.where(np.arange(ROWS) % BATCH < BATCH // 2, 0.0, positive_weights())
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    return regression(loss, fit={"sample_weight": weights}, weighted_metrics=["mae"])


@rare
def zeros_in_a_batch() -> Case:
    """No row of the second batch weighs anything, nor does the last row."""
    weights = positive_weights()
    weights[BATCH:] = 0.0
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    return regression(loss, fit={"sample_weight": weights}, weighted_metrics=["mae"])


@rare
def zeros_everywhere() -> Case:
    """All weights are zero: only the regularizer trains."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, kernel_regularizer="l2")])
    fit = {"sample_weight": np.zeros(ROWS)}
    return case(model, numbers(4), numbers(2, seed=2), fit=fit, weighted_metrics=["mae"])


@rare
def negative() -> Case:
    """A sum of weights below zero on one replica and above it on the other."""
    weights = np.where(np.arange(ROWS) % 2 == 0, 1.5, -0.5)
    weights[:4] = -1.0
    weights[4:8] = 2.0
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    return regression(loss, fit={"sample_weight": weights})


@rare
def huge() -> Case:
    """One weight of a thousand million, under clipping."""
    weights = np.ones(ROWS)
    weights[[2, 13]] = 1e9
    return regression(optimizer=keras.optimizers.SGD(0.05, clipnorm=1.0), fit={"sample_weight": weights})


@rare
def whole_numbers() -> Case:
    """Weights given as integers."""
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    return regression(loss, fit={"sample_weight": 1 + labels(4)})


@rare
def of_each_class() -> Case:
    """A weight for each class; one that is not named weighs 1."""
    fit = {"class_weight": {0: 0.2, 2: 7.0}}
    return case(
        dense(3, "softmax"), numbers(4), labels(3), "sparse_categorical_crossentropy", fit=fit, weighted_metrics=["accuracy"]
    )


@rare
def of_each_class_in_one_hot_rows() -> Case:
    """A weight for each class, which is the place of the one in a row."""
    fit = {"class_weight": {0: 0.2, 1: 3.0, 2: 7.0}}
    return case(dense(3, "softmax"), numbers(4), np.eye(3)[labels(3)], "categorical_crossentropy", fit=fit)


def of_each_class_and_sample() -> Case:
    """Weights of classes and samples multiply. Stock Keras refuses both together, so it gets the product."""
    y, by_class, by_sample = labels(2), {0: 0.5, 1: 4.0}, positive_weights()
    fit = {"class_weight": by_class, "sample_weight": by_sample}
    kept = case(dense(1, "sigmoid"), numbers(4), y, "binary_crossentropy", fit=fit)
    product = by_sample * np.where(y == 1, by_class[1], by_class[0])
    return kept._replace(corrected={"class_weight": None, "sample_weight": product})


@rare
def on_a_loss_of_one_number() -> Case:
    """One number a batch, times each weight, summed over them and divided by nothing: what stock Keras makes of it."""
    return regression(lambda y_true, y_pred: ops.mean(ops.abs(y_true - y_pred)), fit={"sample_weight": positive_weights()})


CASES, RARE = cases(__name__)
