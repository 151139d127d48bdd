"""The epochs and batches of a run, with Keras's moments in Keras's order."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from service.cluster.consensus import Council
from service.errors import WorkersDiffer
from service.training.first_step import FirstStep
from service.training.plan import Plan
from service.training.step import Step


@dataclasses.dataclass
class Start:
    """Where training begins: at the first step, or where a checkpoint left off.

    Attributes:
        epoch: the first epoch to train, from 0.
        restore: puts the callbacks' state back; called once they have begun.
        is_stopped: a callback had stopped the training here, so no epoch follows.
        is_over: an earlier attempt trained it all, and the model has what that left.
    """

    epoch: int = 0
    restore: Callable[[], None] = lambda: None
    is_stopped: bool = False
    is_over: bool = False


def train(
    step: Step,
    plan: Plan,
    callbacks: keras.callbacks.CallbackList,
    council: Council,
    start: Start,
    epochs: int,
    validate: Callable[[int], dict[str, float]],
) -> None:
    """Trains from `start` until epoch `epochs` or until a callback on any worker stops.

    Collective: every worker calls this, with the same data and the same plan.
    """
    model = step.model
    model.stop_training = start.is_stopped
    callbacks.on_train_begin()
    start.restore()
    logs: dict[str, float] | None = None
    for epoch in range(start.epoch, epochs):
        if model.stop_training:
            break
        model.reset_metrics()
        callbacks.on_epoch_begin(epoch)
        logs = _train_epoch(step, plan, callbacks, epoch)
        logs.update({f"val_{name}": value for name, value in validate(epoch).items()})
        callbacks.on_epoch_end(epoch, logs)
        model.stop_training = council.any(bool(model.stop_training))
    if epochs > 0 and isinstance(model.optimizer, keras.optimizers.Optimizer):
        model.optimizer.finalize_variable_values(model.trainable_weights)
    callbacks.on_train_end(logs)


def _train_epoch(step: Step, plan: Plan, callbacks: keras.callbacks.CallbackList, epoch: int) -> dict[str, float]:
    model = step.model
    logs: dict[str, float] = {}
    for batch, (rows, numbers, weight_sums) in enumerate(plan.batches(step.group, epoch)):
        stop = bool(model.stop_training)
        if stop and not step.group.has_peers:
            break
        numbers[3] = stop  # the others hear of it in this step, and none of them takes it
        if not stop:
            callbacks.on_train_batch_begin(batch)
        first = FirstStep(step) if not step.is_checked else None
        vector, control, loss = step.train(rows, numbers, weight_sums)
        if first is not None:
            first.compare(*plan.whole(epoch, batch), loss)
        if step.group.has_peers and _is_stopped(control.numpy()):
            model.stop_training = True
            break
        logs = step.logs(vector)
        callbacks.on_train_batch_end(batch, logs)
    return dict(logs)


def _is_stopped(control: np.ndarray) -> bool:
    """Whether a worker wished to stop; refuses learning rates that differ between workers."""
    rates = control[1:]
    if not np.all(rates == rates[0]):
        raise WorkersDiffer(
            f"The learning rates of the workers differ: {', '.join(f'{rate:g}' for rate in rates)} on workers 0 and on. "
            "A callback set one from something that is not the same everywhere, such as the time; set it from the logs."
        )
    return bool(control[0] > 0)


def test(step: Step, plan: Plan, callbacks: keras.callbacks.CallbackList, steps: int | None = None) -> dict[str, float]:
    """Returns the metrics over the source, the same on every worker. Collective: every worker calls this."""
    model = step.model
    model.stop_evaluating = False
    callbacks.on_test_begin()
    model.reset_metrics()
    logs: dict[str, float] = {}
    for batch, (rows, numbers, weight_sums) in enumerate(plan.batches(step.group)):
        if steps is not None and batch >= steps:
            break
        callbacks.on_test_batch_begin(batch)
        logs = step.logs(step.test(rows, numbers, weight_sums))
        callbacks.on_test_batch_end(batch, logs)
        if model.stop_evaluating:
            break
    callbacks.on_test_end(logs)
    return logs


def predict(step: Step, plan: Plan, callbacks: keras.callbacks.CallbackList, steps: int | None = None) -> Any:
    """Returns the model's outputs for all rows, on every worker. Collective: every worker calls this."""
    model = step.model
    model.stop_predicting = False
    callbacks.on_predict_begin()
    outputs: list[Any] = []
    for batch, (rows, numbers, weight_sums) in enumerate(plan.batches(step.group)):
        if steps is not None and batch >= steps:
            break
        callbacks.on_predict_batch_begin(batch)
        whole = keras.tree.map_structure(lambda t: t.numpy(), step.predict(rows, numbers, weight_sums))
        outputs.append(whole)
        callbacks.on_predict_batch_end(batch, {"outputs": whole})
        if model.stop_predicting:
            break
    callbacks.on_predict_end()
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *outputs)
