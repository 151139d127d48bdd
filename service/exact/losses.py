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

from service.errors import DataInvalid
from service.exact import keras_seams
from service.exact.group import Group, Rows
from service.exact.marks import is_batch_mean
from service.exact.replica import Replica, acting

MEANS = ("mean", "sum_over_batch_size")


class _OneNumber(Exception):
    """The loss gave one number, or another shape that the batch does not lead.

    Attributes:
        values: what it gave.
        weights: [b, ...] the sample weights, or None.
        weights_sum: [] their sum over the global batch, where the plan knows it.
        is_masked: whether a mask goes with it.
        reduction: the loss's.
    """

    def __init__(self, values: Any, weights: Any, weights_sum: Any, is_masked: bool, reduction: str | None) -> None:
        super().__init__()
        self.values, self.weights, self.weights_sum = values, weights, weights_sum
        self.is_masked, self.reduction = is_masked, reduction


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
    """A compiled loss; one that gives one number for a batch is computed on the gathered batch, if it is not marked."""
    try:
        return original(loss, y_true, y_pred, sample_weight)
    except _OneNumber as one:
        if is_batch_mean(loss) and one.values.shape.rank == 0 and not one.is_masked:
            replica.assumptions.append(f'the loss "{loss.name}", which is marked with service.batch_mean')
            return _mean_part(replica, one)
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
        sample_weight = _lined_up(keras.ops.convert_to_tensor(sample_weight, dtype=dtype), values)
        if reduction == "mean_with_sample_weight" and _is_thinner(sample_weight, values):
            # A mean of entries is divided by the weights of all entries; Keras would add one for several.
            entries, sample_weight = _entries_a_row(sample_weight), sample_weight * tf.ones_like(values)
            known_sum = None if known_sum is None else known_sum * _entries_a_row(values) / entries
    if mask is not None:
        mask = _lined_up(mask, values)
    if replica.is_alone or (replica.takes_own_step and reduction in (None, "none")):
        # A train_step of the author's own that asks for one loss a row goes on with the rows.
        return original(values, sample_weight, mask, reduction, dtype)
    if not replica.leads(values):
        raise _OneNumber(values, sample_weight, known_sum, mask is not None, reduction)
    entries = _entries_a_row(values)
    total = tf.cast(replica.entries(values), values.dtype)
    values = replica.own(values)
    sample_weight = None if sample_weight is None else replica.own(sample_weight)
    if mask is not None:
        mask = replica.own(tf.cast(mask, values.dtype))
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
    if reduction in (None, "none"):
        replica.unreduced = denominator
        return numerator
    if reduction == "sum":
        return numerator
    return tf.math.divide_no_nan(numerator, denominator)


def _lined_up(tensor: Any, values: Any) -> Any:
    """Returns weights or a mask [b, ...] with as many dimensions as the values, the first ones lined up.

    One weight a sample on values with more entries so weighs all of the sample's entries; Keras
    would line [b] up with the last dimension.

    Raises:
        DataInvalid: they have more entries a row than the loss has values.
    """
    rank, wanted = tensor.shape.rank, values.shape.rank
    if rank is None or not wanted:
        return tensor
    if rank < wanted:
        return tensor[(..., *[tf.newaxis] * (wanted - rank))]
    pairs = zip(tensor.shape[1:], [*values.shape[1:], *[1] * (rank - wanted)], strict=True)
    if any(None not in pair and one not in (1, value) for pair in pairs for one, value in [pair]):
        raise DataInvalid(
            f"A sample weight or mask has shape {_shown(tensor)}, but the loss has values of shape {_shown(values)}: expected "
            "one weight a row, [rows], or one for each value. Give weights of that shape, or a loss with a value for each."
        )
    return tensor


def _is_thinner(weights: Any, values: Any) -> bool:
    """Whether one weight stands for several values, as a dimension of 1 tells."""
    if weights.shape.rank != values.shape.rank:
        return False
    return any(one == 1 and other != 1 for one, other in zip(weights.shape[1:], values.shape[1:], strict=True))


def _shown(tensor: Any) -> str:
    return f"[{', '.join(['rows', *('?' if size is None else str(size) for size in tensor.shape[1:])])}]"


def _mean_part(replica: Replica, one: _OneNumber) -> Any:
    """Returns [] this replica's part of a mean over the batch's rows, from the mean over its own ones.

    Keras multiplies one number by all weights and reduces that: the weights only scale it.
    """
    scale = replica.share(one.values.dtype)
    if one.weights is not None:
        total = one.weights_sum
        if total is None:
            (total,) = replica.group.sum([tf.reduce_sum(replica.own(one.weights))])
        total = tf.stop_gradient(tf.cast(total, scale.dtype))
        if one.reduction in MEANS:
            total /= tf.cast(replica.rows.total, scale.dtype) * tf.cast(_entries_a_row(one.weights), scale.dtype)
        elif one.reduction == "mean_with_sample_weight":
            total = tf.math.divide_no_nan(total, total)
        scale *= total
    return replica.if_busy(one.values) * scale


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
    replica.output_losses.append(replica.logged(value))
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
