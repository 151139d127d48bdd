"""Per-sample losses, weighted and totalled over all replicas, divided once.

Keras computes a loss as (sum of weight * value) / denominator over the rows it is given.
On several replicas each holds some rows of the global batch. The denominator here is the
whole batch's, so the replicas' results add up to the loss of one device, and so do their
gradients. Shapes: B rows of the global batch, b of this replica.
"""

from typing import Any

import keras
import tensorflow as tf
from keras.src.losses.loss import squeeze_or_expand_to_same_rank

from service.exact import keras_seams
from service.exact.group import Group, Rows
from service.exact.replica import Replica, acting

MEANS = ("mean", "sum_over_batch_size")


class _OneNumber(Exception):
    """The loss gave one number, or another shape that the batch does not lead."""


def install() -> None:
    """Makes Keras's compiled losses exact inside a step."""
    keras_seams.replace(keras_seams.LOSS_CALL, _call)
    keras_seams.replace(keras_seams.REDUCE_WEIGHTED_VALUES, _reduce)
    keras_seams.replace(keras_seams.ADDED_LOSS, _added)
    keras_seams.replace(keras_seams.SCALE_LOSS, lambda original, replica, value: value)
    keras_seams.replace(keras_seams.UNSCALE_LOSS, _record)
    keras_seams.replace(keras_seams.ADD_LOSS, _add)
    keras_seams.replace(keras_seams.OWN_LOSSES, _own)
    keras_seams.replace(keras_seams.CLEAR_LOSSES, _clear)


def _call(original: Any, replica: Replica, loss: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
    """A compiled loss; one that gives one number for a batch is computed on the gathered batch."""
    try:
        return original(loss, y_true, y_pred, sample_weight)
    except _OneNumber:
        gathered = _whole_rows(replica, (y_true, y_pred, sample_weight))
        alone = Replica(Group(), Rows(0, replica.rows.total, replica.rows.total))
        with acting(alone):
            value = original(loss, *gathered)
        return _counted_once(replica, value)


def _reduce(
    original: Any,
    replica: Replica,
    values: Any,
    sample_weight: Any = None,
    mask: Any = None,
    reduction: str | None = "sum_over_batch_size",
    dtype: Any = None,
) -> Any:
    """Returns [] this replica's part of the loss: its rows' numerator over the whole batch's denominator.

    values: [b, ...], sample_weight: [b] or [b, ...], mask: [b, ...] or None. Numerator: sum of
    weight * value. Denominator: the entries (means), the valid entries (means under a mask), the
    sum of the weights ("mean_with_sample_weight"), or 1 ("sum").
    """
    known_sum = None if sample_weight is None else replica.weight_sums.get(id(sample_weight))
    values = keras.ops.convert_to_tensor(values, dtype=dtype)
    if sample_weight is not None:
        sample_weight = keras.ops.convert_to_tensor(sample_weight, dtype=dtype)
        if sample_weight.shape.rank == 1 and (values.shape.rank or 0) > 1:
            # One weight a sample on values with more entries weighs all of the sample's entries;
            # Keras would line [b] up with the last dimension.
            sample_weight = tf.reshape(sample_weight, [-1] + [1] * (values.shape.rank - 1))
    if replica.is_alone:
        return original(values, sample_weight, mask, reduction, dtype)
    if not replica.leads(values):
        raise _OneNumber
    entries = _entries_a_row(values)
    values = replica.own(values)
    sample_weight = None if sample_weight is None else replica.own(sample_weight)
    if mask is not None:
        mask = replica.own(tf.cast(mask, values.dtype))
    total = tf.cast(replica.rows.total, values.dtype)
    denominator = total * entries
    if mask is not None and reduction in MEANS:
        # Keras weighs valid entries by entries / valid, and divides by the entries of the values.
        (valid,) = replica.group.sum([tf.stop_gradient(tf.reduce_sum(mask))])
        denominator *= tf.math.divide_no_nan(valid, total * _entries_a_row(mask))
    if mask is not None:
        if sample_weight is not None:
            mask, sample_weight = squeeze_or_expand_to_same_rank(mask, sample_weight)
        sample_weight = mask if sample_weight is None else sample_weight * mask
    if reduction == "mean_with_sample_weight" and sample_weight is not None:
        if known_sum is not None and mask is None:
            denominator = tf.cast(known_sum, values.dtype)
        else:
            (denominator,) = replica.group.sum([tf.stop_gradient(tf.reduce_sum(sample_weight))])
    if sample_weight is not None:
        values, sample_weight = squeeze_or_expand_to_same_rank(values, sample_weight)
        values = values * sample_weight
    numerator = tf.reduce_sum(values)
    if reduction in (None, "none", "sum"):
        return numerator
    return tf.math.divide_no_nan(numerator, denominator)


def _added(original: Any, replica: Replica, model: Any, loss: Any) -> Any:
    """A loss of add_loss or a regularizer: a number counts by the share b / B, per-sample values are summed."""
    if replica.is_alone:
        return original(model, loss)
    if not loss.dtype.is_floating:
        loss = tf.cast(loss, keras.config.floatx())
    if replica.leads(loss):
        return tf.reduce_sum(replica.own(loss))
    replica.assumptions += [f'add_loss in the layer "{owner.name}"' for owner, t in replica.added_losses if t is loss]
    return replica.if_busy(tf.reduce_sum(loss)) * replica.share(loss.dtype)


def _add(original: Any, replica: Replica, layer: Any, loss: Any) -> None:
    """Keeps a layer's loss with the replica: a layer's own list is one for all replicas of a process.

    MirroredStrategy traces replica after replica, up to each collective; one that begins its
    forward pass would clear the list of another that waits in the middle of it.
    """
    if replica.is_alone:
        original(layer, loss)
        return
    replica.added_losses += [(layer, tensor) for tensor in keras.tree.flatten(loss)]


def _own(original: Any, replica: Replica, layer: Any) -> list[Any]:
    return [*original(layer), *(tensor for owner, tensor in replica.added_losses if owner is layer)]


def _clear(original: Any, replica: Replica, layer: Any) -> None:
    original(layer)
    replica.added_losses = [(owner, tensor) for owner, tensor in replica.added_losses if owner is not layer]


def _record(original: Any, replica: Replica, value: Any) -> Any:
    """Keras calls this once for each output's loss, when it writes that loss down."""
    replica.output_losses.append(value)
    return value


def _entries_a_row(values: Any) -> Any:
    return tf.cast(tf.reduce_prod(tf.shape(values)[1:]), values.dtype)


def _whole_rows(replica: Replica, nested: Any) -> Any:
    """Returns the whole batch's tensors, with their masks, in one collective."""
    leaves = [None if t is None else tf.convert_to_tensor(t) for t in keras.tree.flatten(nested)]
    there = [t for t in leaves if t is not None]
    masks = {i: mask for i, t in enumerate(there) if (mask := keras.src.backend.get_keras_mask(t)) is not None}
    gathered = replica.whole([*there, *(tf.cast(mask, there[0].dtype) for mask in masks.values())])
    for place, mask in zip(masks, gathered[len(there) :], strict=True):
        keras.src.backend.set_keras_mask(gathered[place], tf.cast(mask, "bool"))
    remaining = iter(gathered)
    return keras.tree.pack_sequence_as(nested, [None if t is None else next(remaining) for t in leaves])


def _counted_once(replica: Replica, value: Any) -> Any:
    """Every replica has the whole loss and its own part of the gradient; the first one brings the value."""
    first = tf.equal(replica.group.index, 0)
    return value + tf.stop_gradient(tf.where(first, value, tf.zeros_like(value)) - value)
