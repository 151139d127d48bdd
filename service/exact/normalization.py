"""BatchNormalization over the global batch."""

import weakref
from typing import Any

import keras
import tensorflow as tf

from service.errors import ModelInvalid
from service.exact import keras_seams
from service.exact.replica import Replica

_LOCAL: "weakref.WeakSet[Any]" = weakref.WeakSet()


def install() -> None:
    """Makes the moments of BatchNormalization those of all replicas' rows inside a step."""
    keras_seams.replace(keras_seams.MOMENTS, _moments)


def local_statistics(layer: Any) -> Any:
    """Lets BatchNormalization normalize each replica's rows by their own mean and variance.

    Without this, the mean and variance are the global batch's: exact, at the price of one
    collective for each layer and direction. With it, a layer does what a plain
    BatchNormalization does under a strategy, so a step is no longer the step of one device: it
    depends on the number of replicas, and the first step is not compared with one device's.
    The moving mean and variance stay the same on every worker: each step averages them over the
    replicas by their rows, together with the gradients. A mask, test and predict work as ever.

        layer = service.local_statistics(keras.layers.BatchNormalization())

    Args:
        layer: a BatchNormalization, or a model or layer all of whose ones are meant. A saved model
            does not remember this: say it again after loading.

    Returns:
        The same layer.

    Raises:
        ModelInvalid: there is no BatchNormalization in it.
    """
    found = [one for one in layer._flatten_layers() if isinstance(one, keras.layers.BatchNormalization)]
    if not found:
        raise ModelInvalid(f'service.local_statistics got "{layer.name}": expected a BatchNormalization, or what has some.')
    _LOCAL.update(found)
    return layer


def has_local(model: Any) -> bool:
    """Whether some layer of the model has statistics of its own on each replica."""
    return any(layer in _LOCAL for layer in model._flatten_layers())


def averages(replica: Replica) -> list[Any]:
    """Returns tensors whose sums over the replicas `settle` takes: the moved statistics by the share of the rows."""
    return [replica.if_busy(v.value) * replica.share(v.value.dtype) for v in replica.averaged]


def settle(replica: Replica, sums: list[Any]) -> None:
    """Gives every replica the averaged statistics. They are linear in the means and variances, so this averages those."""
    for variable, value in zip(replica.averaged, sums, strict=True):
        variable.assign(value)
    replica.averaged = []


def _moments(original: Any, replica: Replica, layer: Any, inputs: Any, mask: Any) -> tuple[Any, Any]:
    """Returns [C] mean and [C] variance over the global batch. inputs: [b, ..., C], mask: [b, ...] or None.

    Each replica brings its count n, its mean m and its sum of centred squares s; one collective
    gathers them, and they merge without a difference of large numbers (Chan, Golub, LeVeque 1979):
    N = sum n, M = sum n m / N, S = sum s + sum n (m - M)^2.
    """
    if replica.is_alone:
        return original(layer, inputs, mask)
    if layer in _LOCAL:
        if all(variable is not layer.moving_mean for variable in replica.averaged):
            replica.averaged += [v for v in layer.non_trainable_variables if v.value.dtype.is_floating]
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
