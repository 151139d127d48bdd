"""Gradients summed over all replicas before the optimizer sees them."""

import functools
import weakref
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from service.exact import keras_seams
from service.exact.group import ScopeGroup
from service.exact.replica import Replica, acting

_LOCAL = (
    "_apply_weight_decay",
    "_backend_update_step",
    "_backend_increment_gradient_accumulators",
    "_overwrite_model_variables_with_average_value",
)
_APPLYING: "weakref.WeakSet[Any]" = weakref.WeakSet()  # the optimizers that apply gradients as they are
_HALF = 1 << 16


def install() -> None:
    """Makes every optimizer that acts inside an author's own step see the gradients of all replicas."""
    keras_seams.replace(keras_seams.OPTIMIZER_APPLY, _apply)
    keras_seams.replace(keras_seams.LOSS_SCALE_APPLY, _apply)


def _apply(original: Any, replica: Replica, optimizer: Any, grads: Any, trainable_variables: Any = None) -> Any:
    """Applies the sums of the gradients over all replicas; an idle replica brings none. Collective."""
    grads = list(grads)
    if trainable_variables is not None:
        trainable_variables = list(trainable_variables)
    if replica.applied is not None:
        if not optimizer.built and trainable_variables is not None and not tf.distribute.has_strategy():
            with tf.init_scope():  # the variables outlive the rehearsal
                optimizer.build(trainable_variables)
        replica.applied.append((optimizer, trainable_variables))
        return None
    if isinstance(replica.group, ScopeGroup):
        let_optimizer_apply(optimizer)
    local = [g if g is None or isinstance(g, tf.IndexedSlices) else replica.if_busy(tf.convert_to_tensor(g)) for g in grads]
    summed = whole(replica, local, replica.group.sum(parts(replica, local)))
    note(replica, optimizer, summed, trainable_variables or optimizer._trainable_variables)
    with acting(None):
        return original(optimizer, summed, trainable_variables)


def of(tape: tf.GradientTape, loss: Any, variables: list[Any]) -> list[Any]:
    """Returns each variable's gradient on this replica's rows: a tensor, slices, or None where the loss is not its function."""
    return tape.gradient(loss, [variable.value for variable in variables])


def parts(replica: Replica, gradients: list[Any]) -> list[Any]:
    """Returns tensors whose sums over the replicas `whole` takes.

    A table's gradient comes as slices, one for each entry looked up. The slices of all
    replicas are those of one device; as a sum of dense tables they would not be, because
    optimizers leave the rows alone that no sample touched. Entries that are looked up whatever
    the batch is, such as positions, have one slice each on one device: those are summed.
    """
    if replica.is_alone:
        return []
    tensors: list[Any] = []
    for gradient in gradients:
        if isinstance(gradient, tf.IndexedSlices):
            for piece in _pieces(gradient):
                tensors += [replica.if_busy(piece.values)] if _is_fixed(piece) else _placed_slices(replica, piece)
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
            pieces = [_whole_slices(piece, remaining) for piece in _pieces(gradient)]
            values, indices = (tf.concat(tensors, 0) for tensors in zip(*pieces, strict=True))
            summed.append(tf.IndexedSlices(values, indices, gradient.dense_shape))
        else:
            summed.append(None if gradient is None else next(remaining))
    return summed


def note(replica: Replica, optimizer: Any, summed: list[Any], variables: list[Any]) -> None:
    """Notes the whole batch's gradients, as of a loss that is not scaled, where they are asked for."""
    if replica.reduced is None:
        return
    scale = getattr(optimizer, "dynamic_scale", None)
    for variable, gradient in zip(variables, summed, strict=True):
        if gradient is not None:
            dense = tf.convert_to_tensor(gradient)
            replica.reduced[variable.path] = dense if scale is None else dense / tf.cast(scale, dense.dtype)


def let_optimizer_apply(optimizer: Any) -> None:
    """Has an optimizer whose variables live in a strategy's scope apply gradients as they are.

    Keras would clip first and sum over replicas afterwards, and some of its options call back
    into the strategy from places where that is not allowed. With gradients that are summed
    already each replica does the same update to its own copy, as the optimizer of one device.
    """
    _APPLYING.add(getattr(optimizer, "inner_optimizer", optimizer))
    for name in _LOCAL:
        _divert(name)


def _divert(name: str) -> None:
    """Has a method do what it does without a strategy, for those optimizers.

    At the class where Keras brings the strategy in, because an optimizer's own method of the name, such as Nadam's,
    goes on to it by super().
    """
    original = getattr(TFOptimizer, name)
    if hasattr(original, "_samestep_original"):
        return

    @functools.wraps(original)
    def chosen(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(BaseOptimizer, name) if optimizer in _APPLYING else original
        return method(optimizer, *args, **kwargs)

    chosen._samestep_original = original  # type: ignore[attr-defined]  # marks it as diverted
    setattr(TFOptimizer, name, chosen)


def _pieces(slices: Any) -> list[Any]:
    """Returns the slices of each use of a table: TensorFlow puts them one after the other."""
    if tf.executing_eagerly() or not slices.values.op.type == slices.indices.op.type == "ConcatV2":
        return [slices]
    inputs = zip(slices.values.op.inputs[:-1], slices.indices.op.inputs[:-1], strict=True)
    return [piece for values, indices in inputs for piece in _pieces(tf.IndexedSlices(values, indices, slices.dense_shape))]


def _is_fixed(slices: Any) -> bool:
    """Whether the entries looked up are the same for every batch: then each replica has all of them."""
    return not tf.executing_eagerly() and slices.values.shape[0] is not None


def _placed_slices(replica: Replica, slices: Any) -> list[Any]:
    values, indices = slices.values, tf.cast(slices.indices, tf.int64)
    # Indices travel beside the values as two halves, each a whole number that a float holds.
    halves = tf.stack([tf.cast(indices // _HALF, values.dtype), tf.cast(indices % _HALF, values.dtype)], -1)
    return [_placed(replica, values), _placed(replica, halves)]


def _whole_slices(slices: Any, sums: Iterator[Any]) -> tuple[Any, Any]:
    """Returns (values, indices) of a piece for the whole batch."""
    values = next(sums)
    if _is_fixed(slices):
        return values, slices.indices
    halves = tf.cast(next(sums), tf.int64)
    return values, tf.cast(halves[:, 0] * _HALF + halves[:, 1], slices.indices.dtype)


def _placed(replica: Replica, slices: Any) -> Any:
    """Returns zeros for the whole batch's slices with this replica's at the place of its rows."""
    rows = replica.rows
    held = tf.maximum(rows.count, 1)
    per_row = tf.shape(slices)[0] // held
    with tf.control_dependencies(
        [tf.debugging.assert_equal(tf.shape(slices)[0] % held, 0, "a table is looked up another number of times than the rows")]
    ):
        places = (rows.start * per_row + tf.range(rows.count * per_row))[:, None]
    shape = tf.concat([[rows.total * per_row], tf.shape(slices)[1:]], 0)
    return tf.scatter_nd(places, slices[: rows.count * per_row], shape)
