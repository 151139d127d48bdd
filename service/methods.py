"""Keras's fit, evaluate, predict and train_on_batch, exact under any strategy."""

import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

import keras

from service import given, keras2, moments
from service.callbacks.adopted import adopted
from service.callbacks.setting import Setting
from service.checks import (
    check_compiled,
    check_losses,
    check_model,
    check_targets,
    check_variables_alike,
    warn_if_nothing_trains,
)
from service.cluster.consensus import Council
from service.data import weights
from service.data.batches import Shuffle
from service.data.sources import Arrays
from service.exact import group as groups
from service.exact import keras_seams
from service.ready import ready, surroundings
from service.training import loop
from service.training.plan import ArrayPlan, Plan
from service.training.prepare import build, step_for
from service.training.start import Start
from service.training.step import Step
from service.training.taking import take
from service.training.wishes import Saving, Wishes


@dataclasses.dataclass
class Stage:
    """What a run adds to one call of `fit`.

    Attributes:
        setting: where the callbacks write.
        callbacks: run after the author's and Keras's History, whose effects they record.
        saving: the one of them that saves checkpoints.
        seed: of the order of the rows.
        start: called once the model is built, with it, the callbacks whose state counts (the same on
            every worker), where fit's arguments begin, the last epoch, and what of the arguments must
            stay the same over the attempts at a run; tells where training begins.
    """

    setting: Setting
    callbacks: list[keras.callbacks.Callback]
    saving: Saving
    seed: int
    start: Callable[[Any, list[Any], Start, int, dict[str, Any]], Start]


@keras2.accepting
def fit(
    model: Any,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: Any = "auto",
    callbacks: Any = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: Shuffle = True,
    class_weight: Any = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: Any = 1,
    *,
    same_everywhere: bool = False,
    stage: Stage | None = None,
) -> keras.callbacks.History:
    """Trains the model as `keras.Model.fit` does on one device, on however many replicas there are.

    Collective: every worker calls this, with the whole data set.

    Args:
        model: a compiled Keras model; under a strategy that holds variables, made in its scope.
        x, y, sample_weight: arrays, or lists or dicts of arrays, with one row a sample; or x alone a
            tf.data.Dataset, a keras.utils.PyDataset or a generator of GLOBAL batches.
        batch_size: rows of the GLOBAL batch, 32 by default.
        class_weight: a dict of class: weight, or with several outputs a list or dict of such dicts.
        same_everywhere: every worker's generator gives the same batches; else the chief's alone is
            run, and its batches are sent.
        stage: what a run adds; `worker.fit` gives it.
        The other arguments are Keras's; Keras 2's names are taken too (docs/arguments.md).

    Returns:
        Keras's History, the same on every worker.

    Raises:
        DataInvalid, ModelInvalid, WorkersDiffer: at the first line that can know.
    """
    check_compiled(model, "fit")
    check_losses(model)
    warn_if_nothing_trains(model)
    group, council = surroundings(model)
    seed = stage.seed if stage else _seed(council)
    plan, rows = given.training(
        model,
        council,
        (x, y, sample_weight),
        class_weight=class_weight,
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        steps_per_epoch=steps_per_epoch,
        first_epoch=initial_epoch,
        validation_split=0.0 if validation_data is not None else validation_split,
        same_everywhere=same_everywhere,
    )
    validation_batch_size = validation_batch_size or batch_size
    held_out = None
    if validation_data is not None:
        held_out = given.validating(model, council, validation_data, validation_batch_size, validation_steps, same_everywhere)
    elif rows is not None:
        held_out = given.planned(model, rows, validation_batch_size, validation_steps, "validation_steps")
    step = ready(model, group, council, plan, held_out)
    setting = stage.setting if stage else Setting(council.index == 0, workers=council.count)
    setting.facts |= {} if plan.batch_size is None else {"batch_size": plan.batch_size}
    setting.validation = lambda: given.inputs_of(held_out)
    own = moments.given(callbacks)
    with adopted(own):
        stateful = moments.stateful(own, stage.callbacks if stage else [], setting)
        listed = moments.listed(
            model,
            stateful,
            verbose,
            council,
            epochs,
            plan.steps,
            setting=setting,
            exact={"evaluate": evaluate, "predict": predict},
            validates=held_out is not None,
            lines=True,
        )
        validate = _validation(model, group, held_out, validation_freq, initial_epoch, listed)
        start = Start(initial_epoch)
        if stage:
            held_out_data = held_out and held_out.identity()["data"]
            identity = {"kind": "fit", "compiler": step.compiler, **plan.identity(), "validation data": held_out_data}
            start = stage.start(model, stateful, start, epochs, identity)
        if not start.is_over:
            recorder, saving = moments.recorder(stateful), stage.saving if stage else None
            loop.train(step, plan, listed, council, start, epochs, validate, saving, recorder)
    if stage is None:  # a run compares them at every checkpoint
        check_variables_alike(
            model, council, "Something set it on one worker alone, such as a callback: do it on every worker."
        )
    return model.history


@keras2.accepting
def evaluate(
    model: Any,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    verbose: Any = "auto",
    sample_weight: Any = None,
    steps: int | None = None,
    callbacks: Any = None,
    return_dict: bool = False,
    *,
    same_everywhere: bool = False,
) -> Any:
    """Returns the loss and metrics over the data, as `keras.Model.evaluate`; the workers share the work.

    Collective: every worker calls this, and gets the same.
    """
    check_compiled(model, "evaluate")
    check_losses(model)
    group, council = surroundings(model)
    plan = given.testing(model, council, (x, y, sample_weight), batch_size, steps, same_everywhere=same_everywhere)
    step = ready(model, group, council, plan, None)
    listed = moments.listed(model, callbacks, verbose, council, 1, steps or plan.steps)
    logs = keras_seams.pythonify(loop.test(step, plan, listed, steps))
    return logs if return_dict else model._flatten_metrics_in_order(logs)


@keras2.accepting
def predict(
    model: Any,
    x: Any,
    batch_size: int | None = None,
    verbose: Any = "auto",
    steps: int | None = None,
    callbacks: Any = None,
    *,
    same_everywhere: bool = False,
) -> Any:
    """Returns the model's outputs for all rows, as `keras.Model.predict`; the workers share the work.

    Collective: every worker calls this, and gets all rows.
    """
    check_model(model, "predict")
    group, council = surroundings(model)
    data = (x, None, None)
    plan = given.testing(model, council, data, batch_size, steps, same_everywhere=same_everywhere, targets=False)
    step = ready(model, group, council, plan, None, training=False)
    listed = moments.listed(model, callbacks, verbose, council, 1, steps or plan.steps)
    return loop.predict(step, plan, listed, steps)


@keras2.accepting
def train_on_batch(
    model: Any,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    return_dict: bool = False,
    *,
    wishes: Wishes | None = None,
) -> Any:
    """Takes one step on one global batch, as `keras.Model.train_on_batch`. Collective: every worker calls this.

    `wishes` is what a run adds; `worker.train_on_batch` gives it.
    """
    check_compiled(model, "train_on_batch")
    check_losses(model)
    warn_if_nothing_trains(model)
    weight = weights.weighed(model, x, y, sample_weight, class_weight)
    source = Arrays(x, y, weight)

    def act(step: Step, batch: Any) -> Any:
        if wishes is not None:
            batch.numbers[4:] = wishes.wishes()
        results, (_, save, leave), _ = take(step, batch, surroundings(model)[1])
        if wishes is not None and (save or leave):
            wishes.hear(leave)
        return step.logs(results)

    return _on_batch(model, source, return_dict, act)


@keras2.accepting
def test_on_batch(model: Any, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
    """Returns the metrics on one global batch, as `keras.Model.test_on_batch`. Collective: every worker calls this."""
    check_compiled(model, "test_on_batch")
    check_losses(model)
    source = Arrays(x, y, weights.weighed(model, x, y, sample_weight, None))
    return _on_batch(model, source, return_dict, lambda step, batch: step.test_logs(step.test(*batch[:3])))


def _on_batch(model: Any, source: Arrays, return_dict: bool, act: Callable[[Step, Any], Any]) -> Any:
    group, _ = surroundings(model)
    weights.check(source)
    check_targets(model, source)
    build(model, source.like)
    step = step_for(model, group, source.like)
    model.reset_metrics()
    (batch,) = ArrayPlan(source, source.size).batches(group)
    logs = keras_seams.pythonify(act(step, batch))
    return logs if return_dict else model._flatten_metrics_in_order(logs)


def _validation(
    model: Any, group: groups.Group, plan: Plan | None, freq: Any, first_epoch: int, listed: Any
) -> Callable[[int], dict[str, float]]:
    """Returns what validates after an epoch for which that is due."""
    if plan is None:
        return lambda epoch: {}
    step = step_for(model, group, plan.like)

    def is_due(epoch: int) -> bool:
        return epoch + 1 in freq if isinstance(freq, list | tuple | set) else (epoch + 1) % freq == 0

    def validate(epoch: int) -> dict[str, float]:
        if not is_due(epoch):
            return {}
        times_before = sum(map(is_due, range(first_epoch, epoch)))
        return keras_seams.pythonify(loop.test(step, plan, listed, number=times_before))

    return validate


def _seed(council: Council) -> int:
    seed = keras_seams.random_seed()
    return council.chief(secrets.randbelow(2**32) if seed is None else seed)
