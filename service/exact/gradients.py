"""Gradients summed over all replicas before the optimizer sees them."""

import types
from typing import Any

import tensorflow as tf
from keras.src.optimizers.base_optimizer import BaseOptimizer

from service.exact.replica import Replica

_LOCAL = (
    "_apply_weight_decay",
    "_backend_update_step",
    "_backend_increment_gradient_accumulators",
    "_overwrite_model_variables_with_average_value",
)
_HALF = 1 << 16


def of(tape: tf.GradientTape, loss: Any, variables: list[Any]) -> list[Any]:
    """Returns each variable's gradient on this replica's rows: a tensor, slices, or None where the loss is not its function."""
    return tape.gradient(loss, [variable.value for variable in variables])


def parts(replica: Replica, gradients: list[Any]) -> list[Any]:
    """Returns tensors whose sums over the replicas `whole` takes.

    A table's gradient comes as slices, one for each entry looked up. The slices of all
    replicas are those of one device; as a sum of dense tables they would not be, because
    optimizers leave the rows alone that no sample touched.
    """
    if replica.is_alone:
        return []
    tensors: list[Any] = []
    for gradient in gradients:
        if isinstance(gradient, tf.IndexedSlices):
            values, indices = gradient.values, tf.cast(gradient.indices, tf.int64)
            # Indices travel beside the values as two halves, each a whole number that a float holds.
            halves = tf.stack([tf.cast(indices // _HALF, values.dtype), tf.cast(indices % _HALF, values.dtype)], -1)
            tensors += [_placed(replica, values), _placed(replica, halves)]
        elif gradient is not None:
            tensors.append(gradient)
    return tensors


def whole(replica: Replica, gradients: list[Any], sums: list[Any]) -> list[Any]:
    """Returns the global batch's gradients from the sums of `parts`."""
    if replica.is_alone:
        return gradients
    remaining = iter(sums)
    summed: list[Any] = []
    for gradient in gradients:
        if isinstance(gradient, tf.IndexedSlices):
            values, halves = next(remaining), tf.cast(next(remaining), tf.int64)
            indices = tf.cast(halves[:, 0] * _HALF + halves[:, 1], gradient.indices.dtype)
            summed.append(tf.IndexedSlices(values, indices, gradient.dense_shape))
        else:
            summed.append(None if gradient is None else next(remaining))
    return summed


def let_optimizer_apply(optimizer: Any) -> None:
    """Has an optimizer whose variables live in a strategy's scope apply gradients as they are.

    Keras would clip first and sum over replicas afterwards, and some of its options call back
    into the strategy from places where that is not allowed. With gradients that are summed
    already each replica does the same update to its own copy, as the optimizer of one device.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    optimizer._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars
    for name in _LOCAL:
        setattr(optimizer, name, types.MethodType(getattr(BaseOptimizer, name), optimizer))


def _placed(replica: Replica, slices: Any) -> Any:
    """Returns zeros for the whole batch's slices with this replica's at the place of its rows."""
    rows = replica.rows
    per_row = tf.shape(slices)[0] // tf.maximum(rows.count, 1)
    places = (rows.start * per_row + tf.range(rows.count * per_row))[:, None]
    shape = tf.concat([[rows.total * per_row], tf.shape(slices)[1:]], 0)
    return tf.scatter_nd(places, slices[: rows.count * per_row], shape)
