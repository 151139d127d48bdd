"""Each replica draws its own rows of the noise that one device would draw.

TensorFlow's stateless generator is counter-based (Philox 4x32-10: four 32-bit numbers a
counter step, in the order of the flattened tensor). A replica that holds the rows from
`start` on moves the counter there, so its numbers are bit for bit those rows of the one
draw. Where a number takes a part of the stream that its place and not the others decide, but
no one says which (rejecting generators, categories), the whole batch is drawn and cut; the
parameters of other replicas' rows do not matter to it and are filled in. A shuffle of the
batch moves rows between replicas, so it gathers them.
"""

from typing import Any

import tensorflow as tf
from tensorflow.python.framework import tensor_util

from service.errors import NotExact
from service.exact import keras_seams
from service.exact.group import Group, Rows
from service.exact.replica import Replica, acting

PHILOX = 1
AUTOMATIC = 3  # TensorFlow's own choice, which is Philox on CPUs and GPUs


def install() -> None:
    """Makes every draw of stateless noise exact inside a step."""
    for seam in (keras_seams.NORMAL, keras_seams.UNIFORM, keras_seams.UNIFORM_INT):
        keras_seams.replace(seam, _skip_ahead)
    keras_seams.replace(keras_seams.TRUNCATED_NORMAL, _draw_all)
    keras_seams.replace(keras_seams.GAMMA, _gamma)
    keras_seams.replace(keras_seams.BINOMIAL, _binomial)
    keras_seams.replace(keras_seams.CATEGORICAL, _categorical)
    keras_seams.replace(keras_seams.SHUFFLE, _shuffle)


def _skip_ahead(
    original: Any, replica: Replica, shape: Any, key: Any, counter: Any, alg: Any, *args: Any, **kwargs: Any
) -> Any:
    """Draws [n, ...] numbers from the counter of the replica's first row on."""
    if replica.is_alone or not _is_led_by_rows(replica, shape):
        return original(shape, key, counter, alg, *args, **kwargs)
    _check_algorithm(alg)
    shape = tf.cast(shape, tf.int64)
    first = tf.cast(replica.rows.start, tf.int64) * _per_row(replica, shape) * tf.reduce_prod(shape[1:])
    a_step = 4 // _words(args, kwargs)
    skipped, lead = first // a_step, first % a_step
    low = counter[0] + tf.cast(skipped, tf.uint64)
    carry = tf.cast(low < counter[0], tf.uint64)
    drawn = original([lead + tf.reduce_prod(shape)], key, tf.stack([low, counter[1] + carry]), alg, *args, **kwargs)
    return tf.reshape(drawn[lead:], shape)


def _draw_all(original: Any, replica: Replica, shape: Any, key: Any, counter: Any, alg: Any, *args: Any, **kwargs: Any) -> Any:
    """Draws for the whole batch and keeps the replica's rows: how many words a number takes is not known ahead."""
    if replica.is_alone or not _is_led_by_rows(replica, shape):
        return original(shape, key, counter, alg, *args, **kwargs)
    return _cut(replica, shape, original(_whole_shape(replica, shape), key, counter, alg, *args, **kwargs))


def _gamma(original: Any, replica: Replica, shape: Any, key: Any, counter: Any, alg: Any, alpha: Any, name: Any = None) -> Any:
    if replica.is_alone or not _is_led_by_rows(replica, shape):
        return original(shape, key, counter, alg, alpha, name)
    drawn = original(_whole_shape(replica, shape), key, counter, alg, _filled(replica, shape, alpha), name)
    return _cut(replica, shape, drawn)


def _binomial(original: Any, replica: Replica, shape: Any, seed: Any, counts: Any, probs: Any, **kwargs: Any) -> Any:
    if replica.is_alone or not _is_led_by_rows(replica, shape):
        return original(shape=shape, seed=seed, counts=counts, probs=probs, **kwargs)
    counts, probs = _filled(replica, shape, counts), _filled(replica, shape, probs, 0.5)
    return _cut(replica, shape, original(shape=_whole_shape(replica, shape), seed=seed, counts=counts, probs=probs, **kwargs))


def _categorical(original: Any, replica: Replica, logits: Any, num_samples: Any, seed: Any, **kwargs: Any) -> Any:
    """Draws [b, num_samples] of the categories of logits [b, n]."""
    if replica.is_alone or not _is_led_by_rows(replica, tf.shape(logits)):
        return original(logits, num_samples, seed, **kwargs)
    shape = tf.shape(logits)
    return _cut(replica, shape, original(_filled(replica, shape, logits), num_samples, seed, **kwargs))


def _shuffle(original: Any, replica: Replica, x: Any, axis: int = 0, seed: Any = None) -> Any:
    """Shuffles the rows of the whole batch and keeps the replica's places. Collective along the batch."""
    if replica.is_alone or axis != 0 or not replica.leads(x):
        return original(x, axis, seed)
    (whole,) = replica.group.sum_differentiable([replica.placed_rows(x)])
    with acting(Replica(Group(), Rows(0, replica.rows.total, replica.rows.total))):
        shuffled = original(whole, axis, seed)
    return tf.ensure_shape(_cut(replica, tf.shape(x), shuffled), x.shape)


def _whole_shape(replica: Replica, shape: Any) -> Any:
    """Returns the whole batch's shape from that of this replica's draw."""
    shape = tf.cast(shape, tf.int32)
    return tf.concat([[replica.rows.total * tf.cast(_per_row(replica, shape), tf.int32)], shape[1:]], 0)


def _cut(replica: Replica, shape: Any, drawn: Any) -> Any:
    """Returns this replica's rows of the whole draw."""
    shape = tf.cast(shape, tf.int32)
    first = replica.rows.start * tf.cast(_per_row(replica, shape), tf.int32)
    return drawn[first : first + shape[0]]


def _filled(replica: Replica, shape: Any, parameter: Any, other: float = 1.0) -> Any:
    """Returns a draw's parameter for the whole batch where it has this replica's rows: `other` stands for those of others."""
    parameter = tf.convert_to_tensor(parameter)
    if parameter.shape.rank != shape.shape[0] or not replica.leads(parameter):
        return parameter
    whole = tf.concat([_whole_shape(replica, shape)[:1], tf.shape(parameter)[1:]], 0)
    first = replica.rows.start * tf.cast(_per_row(replica, tf.cast(shape, tf.int32)), tf.int32)
    places = first + tf.range(tf.shape(parameter)[0])
    filled = tf.fill(whole, tf.cast(other, parameter.dtype))
    return tf.tensor_scatter_nd_update(filled, places[:, None], parameter)


def _is_led_by_rows(replica: Replica, shape: Any) -> bool:
    """Whether the batch leads a draw; one without the batch is the same on every replica.

    A step run eagerly knows all sizes; there a first one that is the number of rows is taken for them.
    """
    known = tensor_util.constant_value_as_shape(shape)
    if tf.executing_eagerly():
        return bool(known.rank) and int(known[0]) == max(int(replica.rows.count), 1)
    if known.rank is None:
        raise NotExact("A draw of noise has a shape of unknown rank. Give the shape as a tuple, such as (batch, 8).")
    unknown = [place for place, size in enumerate(known) if size is None]
    if unknown and unknown[0] != 0:
        raise NotExact(
            f"A draw of noise has the shape {tuple(known)}, whose batch dimension is not the first, so a replica cannot "
            "tell which numbers are its rows'. Draw with the batch first, then transpose."
        )
    return bool(unknown)


def _per_row(replica: Replica, shape: Any) -> Any:
    """Returns how many leading entries a row has: 1, or k for a draw of (k * batch, ...)."""
    held = tf.maximum(replica.rows.count, 1)
    with tf.control_dependencies(
        [
            tf.debugging.assert_equal(
                tf.cast(shape[0], tf.int32) % held, 0, "a draw of noise is led by another size than the batch"
            )
        ]
    ):
        return tf.cast(shape[0], tf.int64) // tf.cast(held, tf.int64)


def _words(args: Any, kwargs: Any) -> int:
    """Returns how many 32-bit words one number takes: 2 for 64-bit types."""
    dtype = kwargs.get("dtype")
    if dtype is None:
        dtype = next(
            (a.dtype if isinstance(a, tf.Tensor) else a for a in (*args, *kwargs.values()) if a is not None), tf.float32
        )
    return 2 if tf.as_dtype(dtype).size == 8 else 1


def _check_algorithm(alg: Any) -> None:
    static = tensor_util.constant_value(tf.convert_to_tensor(alg))
    if static is None or int(static) not in (PHILOX, AUTOMATIC):
        raise NotExact(
            f"Noise comes from generator {alg}; only Philox (1, TensorFlow's default) can start at a replica's rows."
        )
