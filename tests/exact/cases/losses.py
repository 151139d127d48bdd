"""Losses: what a function, an object or a layer gives, and by what the whole batch divides it."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.exact.cases.small import ROWS, case, cases, dense, labels, lengths, numbers, positive_weights, rare, regression
from tests.exact.models import Case, uneven_weights


def function_of_a_sample() -> Case:
    """A function that gives one number a sample."""
    return regression(lambda y_true, y_pred: ops.max(ops.abs(y_true - y_pred), axis=-1))


@rare
def function_of_a_step() -> Case:
    """A function that gives several numbers a sample: the mean is over all of them."""
    return regression(lambda y_true, y_pred: ops.square(y_true - y_pred), fit={}, outputs=3)


@rare
def mean_of_the_batch() -> Case:
    """A function that gives one number a batch: Keras 3 under a strategy counts it once a replica."""
    return regression(lambda y_true, y_pred: ops.mean(ops.square(y_true - y_pred)), fit={})


@rare
def root_of_the_batch() -> Case:
    """One number a batch that is no mean over its rows."""
    return regression(lambda y_true, y_pred: ops.sqrt(ops.mean(ops.square(y_true - y_pred))), fit={})


@rare
def reduction_sum() -> Case:
    """Summed over the batch, not divided."""
    return regression(keras.losses.MeanSquaredError(reduction="sum"), keras.optimizers.SGD(0.005))


@rare
def reduction_none() -> Case:
    """Not reduced at all: the gradient is the sum's, the loss in the logs the mean over the samples."""
    return regression(keras.losses.MeanSquaredError(reduction="none"), keras.optimizers.SGD(0.005))


@rare
def reduction_mean() -> Case:
    """Divided by the entries, whatever the weights."""
    return regression(keras.losses.MeanAbsoluteError(reduction="mean"))


def reduction_by_weights() -> Case:
    """Divided by the sum of the weights of the whole batch."""
    loss = keras.losses.Huber(reduction="mean_with_sample_weight")
    return regression(loss, fit={"sample_weight": positive_weights()})


def dice() -> Case:
    """One number for the batch, a ratio of sums."""
    y = labels(2, 3).astype("float64")
    return case(dense(3, "sigmoid"), numbers(4), y, keras.losses.Dice())


@rare
def dice_of_each_sample() -> Case:
    """Dice over an axis: a number a sample, which weights can weigh."""
    y = labels(2, 3, 2).astype("float64")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6, "sigmoid"), layers.Reshape((3, 2))])
    loss = keras.losses.Dice(axis=(1, 2))
    return case(model, numbers(4), y, loss, fit={"sample_weight": uneven_weights(ROWS)})


@rare
def tversky() -> Case:
    """Dice with unlike prices for the two kinds of error."""
    y = labels(2, 3).astype("float64")
    return case(dense(3, "sigmoid"), numbers(4), y, keras.losses.Tversky(alpha=0.3, beta=0.7))


@rare
def f_score() -> Case:
    """An author's class that gives one number for the batch: one minus a smooth F-score of each class."""

    class FScore(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            hits = ops.sum(y_true * y_pred, axis=0)
            return 1.0 - ops.mean(2.0 * hits / (ops.sum(y_true, axis=0) + ops.sum(y_pred, axis=0) + 1e-7))

    return case(dense(3, "sigmoid"), numbers(4), labels(2, 3).astype("float64"), FScore())


@rare
def cosine_and_smoothing() -> Case:
    """Two outputs in a list, one loss of an angle and one with smoothed labels, with a list of loss weights."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(5, "tanh")(inputs)
    model = keras.Model(inputs, [layers.Dense(3, name="a")(hidden), layers.Dense(4, "softmax", name="b")(hidden)])
    losses = [keras.losses.CosineSimilarity(), keras.losses.CategoricalCrossentropy(label_smoothing=0.1)]
    y = [numbers(3, seed=2), np.eye(4)[labels(4)]]
    return case(model, numbers(4), y, losses, loss_weights=[2.0, 0.3])


@rare
def one_loss_for_all_outputs() -> Case:
    """One loss for each of two outputs, with one array of weights for both."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(1)(inputs)])
    fit = {"sample_weight": uneven_weights(ROWS)}
    return case(model, numbers(4), [numbers(2, seed=2), numbers(1, seed=3)], "mae", fit=fit)


@rare
def an_output_without_a_loss() -> Case:
    """A dict of outputs of which one has no loss, and a loss weight for the other."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, {"a": layers.Dense(2, name="a")(inputs), "b": layers.Dense(1, name="b")(inputs)})
    y = {"a": numbers(2, seed=2), "b": numbers(1, seed=3)}
    return case(model, numbers(4), y, {"a": "mse", "b": None}, loss_weights={"a": 0.7, "b": 1.0})


@rare
def nested_outputs() -> Case:
    """Outputs in a dict that holds a list."""
    inputs = keras.Input((4,))
    a, b, c = layers.Dense(2)(inputs), layers.Dense(1)(inputs), layers.Dense(3)(inputs)
    model = keras.Model(inputs, {"one": a, "two": [b, c]})
    y = {"one": numbers(2, seed=2), "two": [numbers(1, seed=3), numbers(3, seed=4)]}
    return case(model, numbers(4), y, {"one": "mse", "two": ["mae", keras.losses.LogCosh()]})


@rare
def regularizers() -> Case:
    """Penalties on kernels, biases and activities: the first two count once, the last is a mean over rows."""
    hidden = layers.Dense(5, "relu", kernel_regularizer="l1", bias_regularizer="l2", activity_regularizer="l2")
    model = keras.Sequential([keras.Input((4,)), hidden, layers.Dense(2, kernel_regularizer=keras.regularizers.L1L2(0.1))])
    return case(model, numbers(4), numbers(2, seed=2), fit={"sample_weight": uneven_weights(ROWS)})


class Penalty(layers.Layer):
    """Adds a mean over the batch and, beside it, a number for each row."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(0.1 * ops.mean(ops.square(inputs)))
        self.add_loss(0.01 * ops.sum(ops.abs(inputs), axis=-1))
        return inputs


@rare
def added_by_a_layer() -> Case:
    """A layer used twice that adds a number and a vector beside the compiled loss."""
    inputs, penalty = keras.Input((4,)), Penalty()
    hidden = penalty(layers.Dense(3, "tanh")(penalty(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(hidden))
    return case(model, numbers(4), numbers(2, seed=2), fit={"sample_weight": uneven_weights(ROWS)})


def masking() -> Case:
    """Steps of zeros are masked: the loss divides by the valid ones of the whole batch, few on the first rows."""
    x = numbers(6, 3) * lengths(6)[..., None]
    model = keras.Sequential([keras.Input((6, 3)), layers.Masking(), layers.GRU(4, return_sequences=True), layers.Dense(2)])
    return case(model, x, numbers(6, 2, seed=2), metrics=["mae"])


def _embedded(loss: Any, fit: dict[str, Any] | None = None, **compiled: Any) -> Case:
    ids = np.where(lengths(6), 1 + labels(8, 6), 0)
    model = keras.Sequential([keras.Input((6,), dtype="int32"), layers.Embedding(9, 4, mask_zero=True), layers.Dense(1)])
    return case(model, ids, numbers(6, 1, seed=2), loss, fit=fit, **compiled)


def mask_and_weights_of_each_step() -> Case:
    """A mask and a weight for each step, some negative."""
    return _embedded("mse", {"sample_weight": uneven_weights(ROWS * 6).reshape(ROWS, 6)}, weighted_metrics=["mae"])


@rare
def mask_divided_by_weights() -> Case:
    """A mask, and a mean by the weights that it leaves."""
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    return _embedded(loss, {"sample_weight": positive_weights(6)})


@rare
def mask_summed() -> Case:
    """A mask and a sum, which nothing divides."""
    return _embedded(keras.losses.MeanSquaredError(reduction="sum"), metrics=["mae"])


@rare
def mask_without_weights_divided_by_them() -> Case:
    """A mask alone is the weights that "mean_with_sample_weight" divides by."""
    return _embedded(keras.losses.MeanAbsoluteError(reduction="mean_with_sample_weight"))


@rare
def all_of_a_batch_masked() -> Case:
    """The second batch is masked whole: no valid entry to divide by."""
    kept = _embedded("mse", metrics=["mae"])
    kept.arguments["x"][8:16] = 0
    return kept


@rare
def an_ignored_class() -> Case:
    """The loss itself masks the steps of one class."""
    model = keras.Sequential([keras.Input((6, 3)), layers.Dense(4)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    return case(model, numbers(6, 3), labels(4, 6), loss, keras.optimizers.SGD(0.5))


@rare
def pictures() -> Case:
    """A class for each pixel: a loss of [B, height, width] values, with a weight for each."""
    model = keras.Sequential([keras.Input((4, 3, 2)), layers.Conv2D(3, 2, padding="same", activation="softmax")])
    fit = {"sample_weight": uneven_weights(ROWS * 12).reshape(ROWS, 4, 3)}
    return case(model, numbers(4, 3, 2), labels(3, 4, 3), "sparse_categorical_crossentropy", fit=fit)


class OwnLoss(keras.Model):
    """Computes its loss itself, a mean over the batch's rows, from the compiled one and a term of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        compiled = super().compute_loss(x, y, y_pred, sample_weight, training)
        return compiled + 0.1 * self._mean(y_pred)

    def _mean(self, y_pred: Any) -> Any:
        return keras.losses.MeanSquaredError()(ops.zeros_like(y_pred), y_pred)


def overridden_compute_loss() -> Case:
    """A subclass that overrides compute_loss."""
    return case(OwnLoss(), numbers(4), numbers(2, seed=2), fit={"sample_weight": uneven_weights(ROWS)})


CASES, RARE = cases(__name__)
