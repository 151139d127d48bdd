"""A model's own train_step, test_step or compute_metrics, on each replica's rows."""

import functools
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from service.errors import ModelInvalid, WorkersDiffer
from service.exact import metrics, normalization
from service.exact.group import Group, Rows, ScopeGroup
from service.exact.replica import Replica, acting
from service.training.rehearsal import brings, optimizers
from service.training.step import WISHES, Step


class OwnStep(Step):
    """The steps of a model that brings some of them itself.

    The author's step runs on the replica's own rows. What it reaches for is the whole batch's:
    compiled losses divide by its rows, optimizers apply the sums of the gradients, metrics
    are updated with it before they are read, and what the step returns is summed. Each of these
    is a collective where it happens. Whether some worker wishes to stop is asked before the
    step and not within, for what an author's step has done cannot be taken back.

    Attributes:
        trains_itself: whether the training step is the author's.
    """

    def __init__(self, model: Any, group: Group, like: Any) -> None:
        self.trains_itself = brings(model, "train_step", "compute_metrics")
        self._tests_itself = brings(model, "test_step", "compute_metrics")
        super().__init__(model, group, like)
        self.take = self.train
        if self.trains_itself and group.has_peers:
            self._ask = self._compiled(self._asked, [self.numbers])
            self.train = functools.partial(self._train_unless_stopped, self.train)
            self.train_telling = functools.partial(self._train_unless_stopped, self.train_telling)
        if self.trains_itself:
            self.logs_and_loss = self._logs_and_broken_loss

    def current(self) -> dict[str, Any]:
        """Returns the metrics as they stand; an author's step may leave compiled ones unbuilt."""
        try:
            return super().current()
        except ValueError:
            return {}

    def take_alone(self, flat: Any, weight_sums: Any) -> Any:
        """Takes the training step as one device does, on a whole batch [B, ...]. No collective between workers."""
        signature = [self.inputs.signature, tf.TensorSpec([None], keras.config.floatx())]
        return self._compiled(self._alone, signature)(flat, weight_sums)

    def _logs_and_broken_loss(self, results: Any) -> tuple[dict[str, Any], float | None]:
        """Returns what an author's step gave, and what of its losses is not finite: they may be means over many batches."""
        logs = self.logs(results)
        losses = [value for name, value in logs.items() if name.endswith("loss") and isinstance(value, float)]
        return logs, next((value for value in losses if not math.isfinite(value)), None)

    def _train(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        if not self.trains_itself:
            return super()._train(flat, numbers, weight_sums)
        results = self.results.packed(self.group.run(self._own, "train_step", flat, numbers, weight_sums))
        return results, tf.cast(numbers[3:], keras.config.floatx()), results

    def _train_unless_stopped(self, take: Any, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        told = self._ask(numbers)
        rates = np.reshape(told[WISHES:], [self.group.size, -1])
        if not np.all(rates == rates[:1]):
            raise WorkersDiffer(
                f"The learning rates of the workers differ: {rates.tolist()} on workers 0 and on. A callback set one from "
                "something that is not the same everywhere, such as the time; set it from the logs."
            )
        if told[0] > 0:
            return None, told[:WISHES], None, {}
        results, _, *rest = take(flat, numbers, weight_sums)
        return results, told[:WISHES], *rest

    def _asked(self, numbers: Any) -> Any:
        """Returns what the workers told each other. Collective: every worker calls this."""
        return self.group.sum([self._control(numbers)])[0]

    def _control(self, numbers: Any) -> Any:
        if not (self.trains_itself and self.group.has_peers):
            return super()._control(numbers)
        rates = tf.stack([tf.cast(o.learning_rate, keras.config.floatx()) for o in optimizers(self.model)])
        return tf.concat([tf.cast(numbers[3:], rates.dtype), tf.reshape(self.group.placed(rates), [-1])], 0)

    def _test(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        if not self._tests_itself:
            return super()._test(flat, numbers, weight_sums)
        return self.tested.packed(self.group.run(self._own, "test_step", flat, numbers, weight_sums))

    def _alone(self, flat: Any, weight_sums: Any) -> Any:
        return self.results.packed(self.group.run(self._alone_replica, flat, weight_sums))

    def _alone_replica(self, flat: Any, weight_sums: Any) -> dict[str, Any]:
        data = self.inputs.packed(flat)
        total = tf.shape(flat[0])[0]
        sums = self.inputs.weight_sums(data, weight_sums)
        return self._act("train_step", data, Replica(Group(), Rows(0, total, total), sums, metrics.trackers(self.model)))

    def _own(self, name: str, flat: Any, numbers: Any, weight_sums: Any) -> dict[str, Any]:
        return self._act(name, *self._replica(flat, numbers, weight_sums))

    def _act(self, name: str, data: Any, replica: Replica) -> dict[str, Any]:
        """Runs the author's step for a replica, and returns the logs of the whole batch."""
        replica.takes_own_step = True
        self._spread()
        with acting(replica):
            logs = getattr(self.model, name)(keras.utils.pack_x_y_sample_weight(*data))
            metrics.flush(replica)
        normalization.settle(replica, replica.group.sum(normalization.averages(replica)))
        if not isinstance(logs, dict):
            raise ModelInvalid(f"{type(self.model).__name__}.{name} returned {logs!r}: expected a dict of names and numbers.")
        logs = metrics.whole_logs(replica, logs)
        self._collect()
        return logs

    def _spread(self) -> None:
        """Gives every replica of a strategy's scope the metrics' whole state; apart, each holds a part of it."""
        if isinstance(self.group, ScopeGroup):
            variables = self._metric_variables()
            for variable, whole in zip(variables, self.group.sum([v.value for v in variables]), strict=True):
                variable.assign(whole)

    def _collect(self) -> None:
        """Leaves the state, which is the same on all replicas of a scope, to the first of them."""
        if isinstance(self.group, ScopeGroup):
            for variable in self._metric_variables():
                value = tf.convert_to_tensor(variable.value)
                variable.assign(tf.where(tf.equal(self.group.index, 0), value, tf.zeros_like(value)))

    def _metric_variables(self) -> list[Any]:
        return [variable for metric in all_metrics(self.model) for variable in metric.variables]


def all_metrics(model: Any) -> list[Any]:
    """Returns the metrics of a model and its layers, also where it overrides `metrics`."""
    listed = [*model.metrics, *metrics.trackers(model), model._loss_tracker, model._compile_metrics]
    listed += [metric for layer in model._flatten_layers() for metric in layer._metrics]
    return list({id(metric): metric for metric in listed if metric is not None}.values())
