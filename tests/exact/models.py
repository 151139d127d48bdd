"""The models that parity is tested on, each with its data and the arguments of fit.

Every case has an odd last batch: with three workers it holds one row, so two of them are idle.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from jobs import digits_classifier, digits_vae


class Case(NamedTuple):
    """A compiled model and what fit is called with.

    Attributes:
        corrected: arguments that stock Keras gets instead, where it is itself wrong or refuses.
        computes_in: the numbers that layers compute in, where they are not those of the variables.
        predicts: whether predictions are compared too.
    """

    model: Any
    arguments: dict[str, Any]
    corrected: dict[str, Any] = {}
    computes_in: str = ""
    predicts: bool = True


def uneven_weights(n: int, seed: int = 1) -> np.ndarray:
    """Returns [n] weights of which some are zero, some negative and some large."""
    weights = np.random.RandomState(seed).gamma(0.5, 2.0, n)
    weights[::7] = 0.0
    weights[3::11] *= -0.1
    weights[5::13] *= 20.0
    return weights


def dense() -> Case:
    """A dense model with uneven weights, a regularizer, and a loss divided by the sum of the weights."""
    x = np.random.RandomState(0).randn(25, 6)
    y = x @ np.random.RandomState(2).randn(6, 2) + 1.0
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "tanh", kernel_regularizer=keras.regularizers.L2(0.01)), layers.Dense(2)]
    )
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.Adam(0.02, clipnorm=0.5), loss, metrics=["mae"], weighted_metrics=["mse"])
    weights = np.abs(uneven_weights(25)) + 0.01
    return Case(model, dict(x=x, y=y, sample_weight=weights, batch_size=8, epochs=3))


def cnn() -> Case:
    """Convolution, max pooling, dropout and BatchNormalization: kernels that crash on an empty batch."""
    x = np.random.RandomState(0).randn(26, 8, 8, 1) * 3.0 + 5.0
    y = np.random.RandomState(1).randint(0, 4, 26)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.SpatialDropout2D(0.2, seed=5),
            layers.Flatten(),
            layers.Dropout(0.4, seed=3),
            layers.Dense(4),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return Case(model, dict(x=x, y=y, sample_weight=uneven_weights(26), batch_size=7, epochs=3, validation_split=0.15))


class Sample(layers.Layer):
    """Draws a latent value and adds the divergence of its distribution as a batch mean."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.noise = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any) -> Any:
        mean, log_variance = inputs
        self.add_loss(-0.5 * ops.mean(1 + log_variance - ops.square(mean) - ops.exp(log_variance)))
        return mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=self.noise)


def noisy() -> Case:
    """Every seam together: noise before and after BatchNormalization, add_loss, weights, global clipping."""
    x = np.random.RandomState(0).randn(28, 6)
    inputs = keras.Input((6,))
    hidden = layers.Dense(9, "tanh")(layers.BatchNormalization(momentum=0.8)(layers.Dense(8, use_bias=False)(inputs)))
    hidden = layers.GaussianNoise(0.3, seed=4)(layers.Dropout(0.4, seed=3)(hidden))
    model = keras.Model(inputs, layers.Dense(6)(Sample(5)([layers.Dense(3)(hidden), layers.Dense(3)(hidden)])))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=0.5), "mse", weighted_metrics=["mae"])
    return Case(model, dict(x=x, y=x, sample_weight=uneven_weights(28), batch_size=9, epochs=3))


def two_outputs() -> Case:
    """Two outputs with losses of two reductions, loss weights, a metric of one number a batch and an author's class."""
    x = np.random.RandomState(0).randn(25, 5)
    y = {"a": np.random.RandomState(1).rand(25, 1), "b": (np.random.RandomState(2).rand(25, 3) > 0.5).astype("float64")}
    inputs = keras.Input((5,))
    hidden = layers.Dense(7, "tanh")(inputs)
    outputs = {"a": layers.Dense(1, name="a")(hidden), "b": layers.Dense(3, "sigmoid", name="b")(hidden)}
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(0.01),
        {"a": keras.losses.MeanSquaredError(reduction="sum"), "b": keras.losses.Dice()},
        loss_weights={"a": 0.1, "b": 2.0},
        metrics={
            "a": [largest_error, LargestError()],
            "b": [keras.metrics.AUC(num_thresholds=20, name="auc"), "binary_accuracy"],
        },
    )
    return Case(model, dict(x=x, y=y, batch_size=8, epochs=2))


def largest_error(y_true: Any, y_pred: Any) -> Any:
    """One number a batch, and no mean."""
    return ops.max(ops.abs(y_true - y_pred))


class LargestError(keras.metrics.Metric):
    """A running maximum: its state is no sum."""

    def __init__(self) -> None:
        super().__init__(name="largest")
        self.largest = self.add_variable((), "zeros", name="largest")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        error = ops.cast(ops.max(ops.abs(y_true - y_pred)), self.dtype)
        self.largest.assign(ops.maximum(self.largest, error))

    def result(self) -> Any:
        return 1.0 * self.largest  # stock Keras reads a bare variable late, when the validation has moved it


def masked() -> Case:
    """Sequences with a mask and weights for each step."""
    lengths = np.array([1, 1, 2, 1, 6, 6, 5, 6, 3, 2, 6, 1, 4])
    random = np.random.RandomState(0)
    ids = np.where(np.arange(6) < lengths[:, None], random.randint(1, 9, (13, 6)), 0)
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(9, 4, mask_zero=True),
            layers.LSTM(5, return_sequences=True),
            layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"], weighted_metrics=["mae"])
    return Case(model, dict(x=ids, y=random.randn(13, 6, 1), sample_weight=random.rand(13, 6), batch_size=6, epochs=2))


def added_rows() -> Case:
    """A layer that adds one loss a row, which Keras sums."""

    class Energy(layers.Layer):
        def call(self, inputs: Any) -> Any:
            self.add_loss(ops.mean(ops.square(inputs), axis=-1))
            return inputs

    x = np.random.RandomState(0).randn(25, 4)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), Energy()])
    model.compile(keras.optimizers.SGD(0.01), loss=None)
    return Case(model, dict(x=x, batch_size=8, epochs=2))


def vae_layer() -> Case:
    """The main job's model, its loss in a layer."""
    options = digits_vae.Options(hidden=16, latent=3)
    return Case(digits_vae.build(options, 7), dict(x=digits_vae.digits()[:65], batch_size=32, epochs=3))


def vae_function() -> Case:
    """The main job's model, its loss a function."""
    options = digits_vae.Options(hidden=16, latent=3, loss="function")
    x = digits_vae.digits()[:65]
    return Case(digits_vae.build(options, 7), dict(x=x, y=x, batch_size=32, epochs=3))


def classifier() -> Case:
    """The second job's model, with its weights, loss and metric."""
    x, y, weights = digits_classifier.imbalanced_digits(digits_classifier.Options().kept)
    model = digits_classifier.build(digits_classifier.Options(), 7)
    return Case(model, dict(x=x[:81], y=y[:81], sample_weight=weights[:81], batch_size=16, epochs=2, validation_split=0.2))


CASES = [
    f"{__name__}:{f.__name__}"
    for f in (dense, cnn, noisy, two_outputs, masked, added_rows, vae_layer, vae_function, classifier)
]
