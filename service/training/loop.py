"""The epochs and batches of a run, with Keras's moments in Keras's order."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from service.cluster.consensus import Council
from service.cluster.pulse import PULSE
from service.exact import keras_seams
from service.training.plan import Plan
from service.training.recording import Pace, Recording
from service.training.start import Start
from service.training.step import Step
from service.training.taking import take
from service.training.wishes import Saving


@PULSE.looping
def train(
    step: Step,
    plan: Plan,
    callbacks: keras.callbacks.CallbackList,
    council: Council,
    start: Start,
    epochs: int,
    validate: Callable[[int], dict[str, float]],
    saving: Saving | None = None,
    recording: Recording | None = None,
) -> None:
    """Trains from `start` until epoch `epochs` or until a callback on any worker stops. Collective: every worker calls this."""
    model = step.model
    model.stop_training = start.is_stopped
    callbacks.on_train_begin()
    first_epoch = max(start.epoch, keras_seams.backed_up_epoch(model))
    if start.batch == 0:
        start.restore()
    logs: dict[str, float] | None = None
    for epoch in range(first_epoch, epochs):
        first = start.batch if epoch == start.epoch else 0
        if (model.stop_training or plan.is_over(epoch)) and first == 0:
            break
        if first == 0:
            model.reset_metrics()
        callbacks.on_epoch_begin(epoch)
        if first > 0:
            start.restore()
        logs = _train_epoch(step, plan, callbacks, council, start, epoch, first, saving, recording)
        logs.update({f"val_{name}": value for name, value in validate(epoch).items()})
        callbacks.on_epoch_end(epoch, logs)
        model.stop_training = council.any(bool(model.stop_training))
    if epochs > 0 and isinstance(model.optimizer, keras.optimizers.Optimizer):
        model.optimizer.finalize_variable_values(model.trainable_weights)
    callbacks.on_train_end(logs)


def _train_epoch(
    step: Step,
    plan: Plan,
    callbacks: keras.callbacks.CallbackList,
    council: Council,
    start: Start,
    epoch: int,
    first: int,
    saving: Saving | None,
    recording: Recording | None,
) -> dict[str, float]:
    """Trains the epoch's batches from `first` on, and returns the metrics over all of them; NaN where all are left out."""
    model = step.model
    logs: dict[str, float] = step.current() if first > 0 else {}
    is_empty = False
    pace = Pace()
    if saving is not None:
        saving.pace = pace
    for number, batch in enumerate(pace.timed(plan.batches(step.group, epoch, first)), first):
        if start.leaves_out(epoch, number):
            is_empty = not logs
            continue
        stop = bool(model.stop_training)
        if stop and not step.group.has_peers:
            break
        # The others hear of these in this step; none of them takes it where one wishes to stop before it.
        batch.numbers[3:] = stop, *(saving.wishes() if saving is not None else (False, False))
        if not stop:
            callbacks.on_train_batch_begin(number)
        telling = recording is not None and not stop and recording.wants_gradients(number)
        results, (stopped, save, leave), gradients = take(step, batch, council, telling, getattr(callbacks, "rate_setter", ""))
        if stopped:
            model.stop_training = True
            break
        if saving is not None and (save or leave):
            saving.hear(leave)
        logs, loss = step.logs_and_loss(results)
        if saving is not None:
            saving.judge(epoch, number, loss)
        is_empty = False
        pace.count(int(batch.numbers[2]))
        if recording is not None:
            recording.take(step, gradients, pace)
        callbacks.on_train_batch_end(number, logs)
        if saving is not None and leave:
            saving.leave()
    return dict.fromkeys(step.current(), math.nan) if is_empty else dict(logs)


@PULSE.looping
def test(
    step: Step, plan: Plan, callbacks: keras.callbacks.CallbackList, steps: int | None = None, number: int = 0
) -> dict[str, float]:
    """Returns the metrics over the source's pass `number`, the same on every worker. Collective: every worker calls this."""
    model = step.model
    model.stop_evaluating = False
    callbacks.on_test_begin()
    model.reset_metrics()
    logs: dict[str, float] = {}
    for batch, (rows, numbers, weight_sums, _) in enumerate(plan.batches(step.group, number)):
        if steps is not None and batch >= steps:
            break
        callbacks.on_test_batch_begin(batch)
        logs = step.test_logs(step.test(rows, numbers, weight_sums))
        callbacks.on_test_batch_end(batch, logs)
        if model.stop_evaluating:
            break
    callbacks.on_test_end(logs)
    return logs


@PULSE.looping
def predict(step: Step, plan: Plan, callbacks: keras.callbacks.CallbackList, steps: int | None = None) -> Any:
    """Returns the model's outputs for all rows, on every worker. Collective: every worker calls this."""
    model = step.model
    model.stop_predicting = False
    callbacks.on_predict_begin()
    outputs: list[Any] = []
    for batch, (rows, numbers, weight_sums, _) in enumerate(plan.batches(step.group)):
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
