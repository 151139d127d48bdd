"""Metrics that mean the same on every worker, in every batch.

A stock metric adds up numbers over samples, so what a replica's rows add to a state of
zeros travels with the gradients, and the sum is added to the state everywhere. Any other
metric (an author's own class, a function that gives one number for a batch) is updated on
every worker with the gathered batch, as on one device. Either way no worker's metric ever
holds anything but global numbers, and reading one needs no collective.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from service.errors import NotExact
from service.exact.replica import Replica, acting


class Update(NamedTuple):
    """One metric and what it is updated with.

    Attributes:
        metric: the Keras metric.
        inputs: (y_true, y_pred) or (y_true, y_pred, sample_weight), [b, ...] each.
    """

    metric: Any
    inputs: tuple[Any, ...]


class StepMetrics:
    """The metrics of one compiled model, from a replica's rows to the global state.

    Order in a step: `before` the forward pass, `contributions` on each replica, their sum
    over the replicas, then `finish` with the sums, once on each worker.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._additive: list[bool] = []

    def before(self) -> list[Any]:
        """Returns the state that the forward pass writes to with one replica's numbers."""
        return [tf.identity(variable.value) for metric in self._output_trackers() for variable in metric.variables]

    def contributions(self, replica: Replica, y: Any, y_pred: Any, sample_weight: Any) -> list[Any]:
        """Returns tensors whose sums over the replicas `finish` takes."""
        compiled = self._model._compile_metrics
        updates = [] if compiled is None else _updates(compiled, y, y_pred, sample_weight)
        if not replica.is_alone:
            self._check_layers()
        self._additive = [not replica.is_alone and _is_additive(replica, update) for update in updates]
        tensors: list[Any] = []
        for update, additive in zip(updates, self._additive, strict=True):
            if additive:
                tensors += _delta(replica, update)
            else:
                tensors += [replica.placed_rows(t) for t in _with_masks(update.inputs)]
        self._updates = updates
        return tensors

    def finish(self, before: list[Any], rows_total: Any, loss: Any, output_losses: list[Any], sums: list[Any]) -> None:
        """Brings every metric from its state before the step to the one after it.

        Args:
            before: what `before` gave.
            rows_total: [] int32, rows of the global batch.
            loss: [] the global batch's loss.
            output_losses: [] each, the outputs' losses where there are several.
            sums: the contributions, summed over the replicas.
        """
        self._model._loss_tracker.update_state(loss, sample_weight=rows_total)
        for metric, value, i in zip(self._output_trackers(), output_losses, range(0, len(before), 2), strict=True):
            weight = tf.cast(rows_total, before[i].dtype)
            metric.total.assign(before[i] + tf.cast(value, before[i].dtype) * weight)
            metric.count.assign(before[i + 1] + weight)
        sums = list(sums)
        for update, additive in zip(self._updates, self._additive, strict=True):
            if additive:
                for variable in update.metric.variables:
                    variable.assign(variable.value + sums.pop(0))
            else:
                inputs = _take_masks([sums.pop(0) for _ in _with_masks(update.inputs)], update.inputs)
                update.metric.update_state(*inputs)

    def _output_trackers(self) -> list[Any]:
        compiled = self._model._compile_loss
        return [] if compiled is None else list(compiled.metrics)

    def _check_layers(self) -> None:
        own = {id(m) for m in (self._model._loss_tracker, self._model._compile_metrics, *self._output_trackers())}
        for metric in self._model.metrics:
            if id(metric) not in own:
                raise NotExact(
                    f'The metric "{metric.name}" is updated inside the model or a layer, from one replica\'s rows. '
                    "Give it to compile(metrics=[...]), where it is updated with the whole batch's."
                )


def _updates(compiled: Any, y: Any, y_pred: Any, sample_weight: Any) -> list[Update]:
    y, y_pred = compiled._flatten_y(y), compiled._flatten_y(y_pred)
    weights = [None] * len(y) if sample_weight is None else compiled._flatten_y(sample_weight)
    if len(weights) < len(y):
        weights = [weights[0]] * len(y)
    plain = [
        Update(metric, (y_true, pred))
        for metrics, y_true, pred in zip(compiled._flat_metrics, y, y_pred, strict=False)
        for metric in (metrics.metrics if metrics else ())
    ]
    weighted = [
        Update(metric, (y_true, pred, weight))
        for metrics, y_true, pred, weight in zip(compiled._flat_weighted_metrics, y, y_pred, weights, strict=False)
        for metric in (metrics.metrics if metrics else ())
    ]
    return plain + weighted


def _is_additive(replica: Replica, update: Update) -> bool:
    """Whether the metric adds numbers over samples; only Keras's own classes are known to."""
    if not type(update.metric).__module__.startswith("keras.src.metrics."):
        return False
    if isinstance(update.metric, keras.metrics.MeanMetricWrapper):
        with acting(None):
            values = update.metric._fn(update.inputs[0], update.inputs[1], **update.metric._fn_kwargs)
        return replica.leads(values)
    return True


def _delta(replica: Replica, update: Update) -> list[Any]:
    zeros = [tf.zeros(variable.shape, variable.dtype) for variable in update.metric.variables]
    with acting(None):
        return [replica.if_busy(t) for t in update.metric.stateless_update_state(zeros, *update.inputs)]


def _with_masks(inputs: tuple[Any, ...]) -> list[Any]:
    """Returns the inputs there are as tensors, and the prediction's mask behind them where it has one."""
    tensors = [tf.convert_to_tensor(t) for t in inputs if t is not None]
    mask = keras.src.backend.get_keras_mask(inputs[1])
    return tensors if mask is None else [*tensors, tf.cast(mask, tf.int32)]


def _take_masks(tensors: list[Any], like: tuple[Any, ...]) -> list[Any]:
    gathered = [None if given is None else tensors.pop(0) for given in like]
    if tensors:
        keras.src.backend.set_keras_mask(gathered[1], tf.cast(tensors.pop(0), "bool"))
    return gathered
