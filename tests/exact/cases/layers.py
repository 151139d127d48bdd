"""Layers: statistics of the whole batch, noise of the whole batch, masks and kernels."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.exact.cases.small import ROWS, case, cases, labels, lengths, numbers, predicting, rare
from tests.exact.models import Case, uneven_weights


def _stack(shape: tuple[int, ...], *stack: Any, x: Any = None, **compiled: Any) -> Case:
    """The case of a stack of layers over [ROWS, *shape], with a dense layer behind them."""
    x = numbers(*shape) if x is None else x
    model = keras.Sequential([keras.Input(shape, dtype=str(x.dtype)), *stack, layers.Dense(1)])
    y = numbers(*(() if len(model.output_shape) == 2 else model.output_shape[1:-1]), 1, seed=2)
    return predicting(case(model, x, y, **compiled))


@rare
def statistics_far_from_zero() -> Case:
    """BatchNormalization of numbers with mean 1000 and deviation 1000, where squares of sums would lose digits."""
    return _stack((4,), layers.BatchNormalization(momentum=0.7), x=1000.0 + 1000.0 * numbers(4))


def statistics_under_a_mask() -> Case:
    """BatchNormalization of the valid steps only, few of them on the first rows."""
    x = numbers(6, 3) * lengths(6)[..., None]
    return _stack((6, 3), layers.Masking(), layers.BatchNormalization(momentum=0.7), x=x)


@rare
def statistics_synchronized() -> Case:
    """BatchNormalization that asks for synchronized statistics, of pictures."""
    normalized = layers.BatchNormalization(momentum=0.7, synchronized=True)
    return _stack((4, 4, 2), layers.Conv2D(3, 2, use_bias=False), normalized, layers.GlobalAveragePooling2D())


@rare
def statistics_frozen() -> Case:
    """A BatchNormalization that is not trained, and one along another axis."""
    return _stack((3, 4), layers.BatchNormalization(trainable=False), layers.BatchNormalization(axis=1), layers.Flatten())


@rare
def dropout_by_kind() -> Case:
    """Dropout with one mask for all steps, dropout of whole channels, and one mask for all rows."""
    by_row = layers.Dropout(0.4, noise_shape=(None, 1, 4), seed=1)
    for_all = layers.Dropout(0.2, noise_shape=(1, 5, 4), seed=2)
    return _stack((5, 4), by_row, layers.SpatialDropout1D(0.3, seed=3), for_all, layers.Flatten())


@rare
def dropout_without_a_seed() -> Case:
    """Noise from Keras's global generator, whose first use is inside the step."""
    return _stack((4,), layers.Dense(5, "tanh"), layers.Dropout(0.5))


@rare
def gaussian_noise() -> Case:
    """Added noise, multiplied noise and dropout that keeps mean and variance."""
    stack = [layers.GaussianNoise(0.5, seed=1), layers.GaussianDropout(0.3, seed=2), layers.AlphaDropout(0.3, seed=3)]
    return _stack((3,), *stack)


def recurrent_dropout() -> Case:
    """An LSTM and a GRU with one mask of inputs and one of states for all steps."""
    first = layers.LSTM(3, dropout=0.3, recurrent_dropout=0.3, return_sequences=True, seed=1)
    return _stack((4, 3), first, layers.GRU(3, dropout=0.2, recurrent_dropout=0.4, seed=2))


@rare
def both_directions() -> Case:
    """A bidirectional recurrence over masked steps."""
    x = numbers(6, 3) * lengths(6)[..., None]
    return _stack((6, 3), layers.Masking(), layers.Bidirectional(layers.LSTM(2, seed=1)), x=x)


@rare
def random_flips_and_zooms() -> Case:
    """Pictures flipped, sheared and zoomed at random inside the model."""
    stack = [layers.RandomFlip(seed=1), layers.RandomShear(0.2, 0.2, seed=2), layers.RandomZoom(0.3, seed=3)]
    return _stack((5, 5, 2), *stack, layers.Flatten())


@rare
def random_moves_and_colours() -> Case:
    """Pictures moved and brightened at random inside the model."""
    stack = [layers.RandomTranslation(0.2, 0.2, seed=1, dtype="float32"), layers.RandomBrightness(0.3, seed=3)]
    x = 255.0 / (1.0 + np.exp(-numbers(5, 5, 3)))
    return _stack((5, 5, 3), *stack, layers.RandomContrast(0.3, seed=4), layers.Rescaling(1 / 255), layers.Flatten(), x=x)


class Draws(layers.Layer):
    """An author's layer that draws from each of Keras's simple distributions, led by the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = keras.random.SeedGenerator(3)

    def call(self, inputs: Any) -> Any:
        shape, batch = ops.shape(inputs), ops.shape(inputs)[0]
        signs = 2 * keras.random.randint((batch, 1), 0, 2, seed=self.noise) - 1
        inputs = inputs * ops.cast(signs, inputs.dtype) * keras.random.uniform((batch, 1), 0.5, 1.5, seed=self.noise)
        inputs = inputs + 0.1 * keras.random.truncated_normal(shape, seed=self.noise)
        common = keras.random.normal((shape[1],), seed=self.noise)  # not led by the batch: the same for all rows
        pairs = keras.random.normal((2 * batch, 3), seed=self.noise)
        return inputs + common + ops.sum(ops.reshape(pairs, (batch, 6)), axis=-1, keepdims=True)


def draws_of_an_author() -> Case:
    """keras.random in a layer: rows, the same for all rows, and several leading entries a row."""
    return _stack((4,), layers.Dense(5, "tanh"), Draws())


class RareDraws(layers.Layer):
    """An author's layer that draws from the distributions whose generators reject numbers or take logits."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = keras.random.SeedGenerator(3)

    def call(self, inputs: Any) -> Any:
        shape = ops.shape(inputs)
        classes = ops.cast(keras.random.categorical(inputs, 3, seed=self.noise), inputs.dtype)
        scales = keras.random.gamma(shape, 2.0, seed=self.noise) + keras.random.beta(shape, 2.0, 3.0, seed=self.noise)
        counts = keras.random.binomial((shape[0], 1), 5.0, 0.4, seed=self.noise)
        return 0.1 * (inputs * scales + counts + ops.sum(classes, axis=-1, keepdims=True))


@rare
def rare_draws_of_an_author() -> Case:
    """keras.random's categorical, gamma, beta and binomial in a layer."""
    return _stack((4,), layers.Dense(5, "tanh"), RareDraws())


@rare
def attention() -> Case:
    """Attention with dropout over padded steps, causal, with layer normalization around it."""
    ids = np.where(lengths(6), 1 + labels(8, 6), 0)
    inputs = keras.Input((6,), dtype="int32")
    hidden = layers.Embedding(9, 4, mask_zero=True)(inputs)
    attended = layers.MultiHeadAttention(2, 3, dropout=0.2, seed=4)(hidden, hidden, use_causal_mask=True)
    hidden = layers.LayerNormalization()(layers.Add()([hidden, attended]))
    model = keras.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling1D()(hidden)))
    return predicting(case(model, ids, numbers(1, seed=2), fit={"sample_weight": uneven_weights(ROWS)}))


@rare
def normalized_rows() -> Case:
    """Normalizations that look at one row only, and one of the kernel, whose state the forward pass moves."""
    spectral = layers.SpectralNormalization(layers.Dense(4), power_iterations=2)
    stack = [layers.GroupNormalization(2), layers.RMSNormalization(), layers.UnitNormalization(), spectral]
    return _stack((3, 4), *stack, layers.Flatten())


@rare
def convolutions() -> Case:
    """Kernels and pools of several kinds, which crash on no rows."""
    stack = [
        *(layers.Conv2D(4, 3, padding="same", activation="relu"), layers.DepthwiseConv2D(2), layers.MaxPooling2D(2)),
        *(layers.Conv2DTranspose(2, 2, strides=2), layers.SeparableConv2D(3, 2), layers.AveragePooling2D(2)),
        *(layers.UpSampling2D(2), layers.GlobalMaxPooling2D()),
    ]
    return _stack((7, 7, 2), *stack)


@rare
def over_time() -> Case:
    """One-dimensional kernels, and a layer applied to each step."""
    return _stack((8, 2), layers.Conv1D(3, 3, padding="causal"), layers.TimeDistributed(layers.Dense(2)), layers.MaxPooling1D())


@rare
def shared_table() -> Case:
    """One table looked up for two inputs: the slices of both make its gradient."""
    table = layers.Embedding(7, 3)
    one, other = keras.Input((2,), dtype="int32", name="one"), keras.Input((3,), dtype="int32", name="other")
    joined = layers.Flatten()(layers.Concatenate(axis=1)([table(one), table(other)]))
    model = keras.Model({"one": one, "other": other}, layers.Dense(1)(joined))
    x = {"one": labels(5, 2), "other": labels(7, 3, seed=3)}
    return case(model, x, numbers(1, seed=2), optimizer=keras.optimizers.Adam(0.02))


CASES, RARE = cases(__name__)
