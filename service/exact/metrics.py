"""Metrics that mean the same on every worker, in every batch.

A stock metric adds up numbers over samples, so what a replica's rows add to a state of
zeros travels with the gradients, and the sum is added to the state everywhere. Any other
metric (an author's own class, a function that gives one number for a batch, a number
given to Mean) is updated on every worker with the whole batch's arguments: rows are
gathered, and a number counts as this replica's part of the batch's number, as a loss is.
Either way no worker's metric ever holds anything but global numbers, and reading one
needs no collective. Updates are seen wherever they happen while a step acts: in compiled
metrics, in a layer, in an author's compute_loss, train_step or test_step.
"""

import inspect
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.src.trainers.compile_utils import CompileMetrics, MetricsList
from tensorflow.python.distribute.values import SyncOnReadVariable
from tensorflow.python.framework import tensor_util

from service.errors import NotExact
from service.exact import keras_seams
from service.exact.replica import Replica, acting


class Update(NamedTuple):
    """One metric and what it is updated with.

    Attributes:
        metric: the Keras metric.
        arguments: (args, kwargs) of update_state; tensors are [b, ...], or parts of the batch's numbers.
        is_additive: whether the state grows by what the rows add to zeros.
    """

    metric: Any
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    is_additive: bool


def install() -> None:
    """Sees every metric's updates and results inside a step; classes that came since the last call too."""
    keras_seams.replace_in_all(keras_seams.METRIC_UPDATE, _update)
    keras_seams.replace_in_all(keras_seams.METRIC_RESULT, _result)


def trackers(model: Any) -> list[Any]:
    """Returns the metrics in which Keras keeps the outputs' losses, where there are several."""
    compiled = model._compile_loss
    return [] if compiled is None else list(compiled.metrics)


def update_compiled(model: Any, replica: Replica, y: Any, y_pred: Any, sample_weight: Any) -> None:
    """Updates the compiled metrics with this replica's rows."""
    if model._compile_metrics is not None:
        with acting(replica):
            model._compile_metrics.update_state(y, y_pred, sample_weight)


def contributions(replica: Replica, updates: list[Update]) -> list[list[Any]]:
    """Returns tensors, a list for each update, whose sums over the replicas `apply` takes."""
    return [_delta(replica, update) if update.is_additive else _placed(replica, update) for update in updates]


def apply(updates: list[Update], sums: list[list[Any]]) -> None:
    """Brings the metrics to the state after the whole batch, from the contributions summed over the replicas."""
    with acting(None):
        for update, summed in zip(updates, sums, strict=True):
            if update.is_additive:
                for variable, total in zip(update.metric.variables, summed, strict=True):
                    _assign(variable, variable.value + total)
            else:
                args, kwargs = _taken(update, summed)
                update.metric.update_state(*args, **kwargs)


def finish(model: Any, rows_total: Any, loss: Any, output_losses: list[Any], updates: list[Update], sums: list[Any]) -> None:
    """Brings every metric of a compiled model from its state before the step to the one after it.

    Args:
        model: the model.
        rows_total: [] int32, rows of the global batch.
        loss: [] the global batch's loss.
        output_losses: [] each, the outputs' losses where there are several.
        updates: what the replica noted.
        sums: the contributions, summed over the replicas.
    """
    model._loss_tracker.update_state(loss, sample_weight=rows_total)
    for metric, value in zip(trackers(model), output_losses, strict=False):
        weight = tf.cast(rows_total, metric.dtype)
        metric.total.assign(metric.total.value + tf.cast(value, metric.dtype) * weight)
        metric.count.assign(metric.count.value + weight)
    apply(updates, sums)


def flush(replica: Replica) -> None:
    """Tells all replicas of the updates that are not summed yet. Collective where there are any: every replica calls this."""
    updates, replica.updates = replica.updates, []
    if updates:
        apply(updates, replica.group.sum_nested(contributions(replica, updates)))


def whole_logs(replica: Replica, logs: Any) -> dict[str, Any]:
    """Returns the logs of the whole batch from those of an author's own step on one replica.

    What a metric gave is the batch's already, as are plain numbers and variables. Any other
    tensor is this replica's part: rows are put together, numbers are summed.
    Collective where there is such a tensor: every replica calls this.
    """
    flat = _flat(logs)
    known = {id(result) for result in replica.results}
    names = [] if replica.is_alone else [name for name, v in flat.items() if _is_computed(v) and id(v) not in known]
    sums = replica.group.sum([_part(replica, flat[name]) for name in names])
    return {name: tf.convert_to_tensor(value) for name, value in (flat | dict(zip(names, sums, strict=True))).items()}


def _update(original: Any, replica: Replica, metric: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(metric, CompileMetrics | MetricsList):
        return original(metric, *args, **kwargs)
    if id(metric) in replica.output_trackers:
        if not replica.takes_own_step:
            return None  # `finish` does it
        kwargs["sample_weight"] = replica.rows.count
    if replica.is_alone:
        with acting(None):
            return original(metric, *args, **kwargs)
    replica.updates.append(Update(metric, (args, kwargs), _is_additive(original, replica, metric, args, kwargs)))
    return None


def _result(original: Any, replica: Replica, metric: Any) -> Any:
    if replica.updates and not replica.takes_own_step:
        raise NotExact(
            f'The result of the metric "{metric.name}" is read inside the model, a layer or a loss, before the other replicas '
            "are heard of. Read it in a callback or in a train_step of your own."
        )
    flush(replica)
    value = original(metric)
    replica.results += keras.tree.flatten(value)
    return value


def _is_additive(original: Any, replica: Replica, metric: Any, args: Any, kwargs: Any) -> bool:
    """Whether the metric adds numbers over samples; only Keras's own classes are known to."""
    given = list(inspect.signature(original).bind(metric, *args, **kwargs).arguments.values())[1:]
    if not type(metric).__module__.startswith("keras.src.metrics."):
        return False
    if isinstance(metric, keras.metrics.MeanMetricWrapper):
        with acting(None):
            values = metric._fn(given[0], given[1], **metric._fn_kwargs)
        return replica.leads(values)
    return tf.is_tensor(given[0]) and replica.leads(given[0])


def _delta(replica: Replica, update: Update) -> list[Any]:
    args, kwargs = update.arguments
    zeros = [tf.zeros(variable.shape, variable.dtype) for variable in update.metric.variables]
    with acting(None):
        return [replica.if_busy(t) for t in update.metric.stateless_update_state(zeros, *args, **kwargs)]


def _assign(variable: Any, value: Any) -> None:
    """Gives a metric's variable a global number.

    A strategy's scope keeps such a variable in parts, one a replica, that add up. From outside the replicas TensorFlow
    would give each an equal part, which whole numbers do not have: 5 would become 2 and 2. So the first part gets all.
    """
    whole = variable.value
    is_on_a_replica = tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()
    if isinstance(whole, SyncOnReadVariable) and not is_on_a_replica:
        for place, part in enumerate(whole.values):
            part.assign(value if place == 0 else tf.zeros_like(value))
    else:
        variable.assign(value)


def _placed(replica: Replica, update: Update) -> list[Any]:
    """Returns the arguments that are tensors, and the masks behind them where they have one."""
    tensors = [t for t in keras.tree.flatten(update.arguments) if _differs(t)]
    masks = [tf.cast(mask, tf.int32) for t in tensors if (mask := keras.src.backend.get_keras_mask(t)) is not None]
    return [_part(replica, t) for t in (*tensors, *masks)]


def _taken(update: Update, summed: list[Any]) -> Any:
    """Returns the arguments of the whole batch, from the sums of what `_placed` gave."""
    leaves = keras.tree.flatten(update.arguments)
    places = [i for i, leaf in enumerate(leaves) if _differs(leaf)]
    masked = [i for i in places if keras.src.backend.get_keras_mask(leaves[i]) is not None]
    for place, value in zip(places, summed, strict=False):
        leaves[place] = tf.cast(value, "bool") if tf.as_dtype(leaves[place].dtype).is_bool else value
    for place, mask in zip(masked, summed[len(places) :], strict=True):
        keras.src.backend.set_keras_mask(leaves[place], tf.cast(mask, "bool"))
    return keras.tree.pack_sequence_as(update.arguments, leaves)


def _differs(value: Any) -> bool:
    """Whether a value is a replica's own: a tensor that is no constant."""
    return _is_computed(value) and (tf.executing_eagerly() or tensor_util.constant_value(value) is None)


def _is_computed(value: Any) -> bool:
    """Whether a value is a tensor; a variable is the same on every replica."""
    return isinstance(value, tf.Tensor) and not isinstance(value, keras.Variable | tf.Variable)


def _part(replica: Replica, tensor: Any) -> Any:
    """Returns what a tensor brings to the sum over the replicas: rows at their places, or a number of busy rows."""
    tensor = tf.cast(tensor, tf.int32) if tensor.dtype.is_bool else tensor
    return replica.placed_rows(tensor) if replica.leads(tensor) else replica.if_busy(tensor)


def _flat(logs: dict[str, Any]) -> dict[str, Any]:
    """Returns nested logs as Keras flattens them: the names inside."""
    flat: dict[str, Any] = {}
    for name, value in logs.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: value}
    return flat
