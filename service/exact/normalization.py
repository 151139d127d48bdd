"""BatchNormalization over the global batch."""

from typing import Any

import keras
import tensorflow as tf

from service.exact import keras_seams
from service.exact.replica import Replica


def install() -> None:
    """Makes the moments of BatchNormalization those of all replicas' rows inside a step."""
    keras_seams.replace(keras_seams.MOMENTS, _moments)


def _moments(original: Any, replica: Replica, layer: Any, inputs: Any, mask: Any) -> tuple[Any, Any]:
    """Returns [C] mean and [C] variance over the global batch. inputs: [b, ..., C], mask: [b, ...] or None.

    Each replica brings its count n, its mean m and its sum of centred squares s; one collective
    gathers them, and they merge without a difference of large numbers (Chan, Golub, LeVeque 1979):
    N = sum n, M = sum n m / N, S = sum s + sum n (m - M)^2.
    """
    if replica.is_alone:
        return original(layer, inputs, mask)
    axes = layer._reduction_axes
    inputs = replica.own(inputs)
    if mask is None:
        weight = tf.ones_like(inputs)
    else:
        weight = tf.cast(tf.broadcast_to(tf.cast(replica.own(mask), "bool")[..., None], tf.shape(inputs)), inputs.dtype)
    valid = weight > 0
    count = tf.reduce_sum(weight, axes, keepdims=True)
    mean = tf.math.divide_no_nan(tf.reduce_sum(tf.where(valid, inputs, 0), axes, keepdims=True), count)
    centred = tf.where(valid, inputs - tf.stop_gradient(mean), 0)
    squares = tf.reduce_sum(tf.square(centred), axes, keepdims=True)
    counts, means, sums = tf.unstack(replica.group.gather(tf.stack([count, mean, squares])), axis=1)
    # Under a mask Keras divides by the count plus epsilon.
    entries = tf.reduce_sum(counts, 0) + (0 if mask is None else keras.config.epsilon())
    global_mean = tf.reduce_sum(counts * means, 0) / entries
    spread = tf.reduce_sum(sums + counts * tf.square(means - global_mean), 0)
    return tf.squeeze(global_mean, axes), tf.squeeze(spread / entries, axes)
