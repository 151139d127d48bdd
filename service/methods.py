"""Keras's fit, evaluate, predict and train_on_batch, exact under any strategy."""

import dataclasses
import secrets
import sys
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from service.callbacks.progress import EpochLines
from service.checks import batch_size_of, check_alike, check_compiled, check_model, check_targets
from service.cluster import strategy as strategies
from service.cluster.consensus import Council
from service.data import weights
from service.data.batches import Shuffle
from service.data.sources import Arrays
from service.errors import ModelInvalid
from service.exact import group as groups
from service.exact import keras_seams
from service.training import loop
from service.training.plan import Plan
from service.training.prepare import build, step_for
from service.training.start import Start
from service.training.step import Step


@dataclasses.dataclass
class Stage:
    """What a run adds to one call of `fit`.

    Attributes:
        callbacks: run after the author's and Keras's History, whose effects they record.
        saving: the one of them that saves checkpoints.
        seed: of the order of the rows.
        start: called once the model is built, with it, the callbacks whose state counts (the same on
            every worker), where fit's arguments begin, and what of them must stay the same over the
            attempts at a run; tells where training begins.
    """

    callbacks: list[keras.callbacks.Callback]
    saving: loop.Saving
    seed: int
    start: Callable[[Any, list[Any], Start, dict[str, Any]], Start]


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
    class_weight: dict[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    validation_batch_size: int | None = None,
    validation_freq: Any = 1,
    *,
    stage: Stage | None = None,
) -> keras.callbacks.History:
    """Trains the model as `keras.Model.fit` does on one device, on however many replicas there are.

    Collective: every worker calls this, with the whole data set.

    Args:
        model: a compiled Keras model; under a strategy that holds variables, made in its scope.
        x, y, sample_weight: arrays, or lists or dicts of arrays, with one row a sample.
        batch_size: rows of the GLOBAL batch, 32 by default.
        stage: what a run adds; `worker.fit` gives it.
        The other arguments are Keras's.

    Returns:
        Keras's History, the same on every worker.

    Raises:
        DataInvalid, ModelInvalid, WorkersDiffer: at the first line that can know.
    """
    check_compiled(model, "fit")
    group, council = _surroundings(model)
    batch_size = batch_size_of(batch_size)
    source = Arrays(x, y, sample_weight)
    held_out = None
    if validation_data is not None:
        val_x, val_y, val_weight = keras.utils.unpack_x_y_sample_weight(validation_data)
        held_out = Arrays(val_x, val_y, val_weight, of="validation_data's ")
    elif validation_split:
        source, held_out = source.split(validation_split)
    source = weights.with_class_weight(source, class_weight)
    step = _ready(model, group, council, source, held_out)
    seed = stage.seed if stage else _seed(council)
    plan = Plan(source, batch_size, seed, shuffle)
    stateful = _stateful(callbacks, stage)
    listed = _callback_list(model, stateful, verbose, council, epochs, plan.steps, lines=True)
    validate = _validation(model, group, held_out, validation_batch_size or batch_size, validation_freq, listed)
    start = Start(initial_epoch)
    if stage:
        start = stage.start(model, stateful, start, _identity(plan, held_out))
    if not start.is_over:
        loop.train(step, plan, listed, council, start, epochs, validate, stage.saving if stage else None)
    return model.history


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
) -> Any:
    """Returns the loss and metrics over the data, as `keras.Model.evaluate`; the workers share the work.

    Collective: every worker calls this, and gets the same.
    """
    check_compiled(model, "evaluate")
    group, council = _surroundings(model)
    source = Arrays(x, y, sample_weight)
    step = _ready(model, group, council, source, None)
    plan = Plan(source, batch_size_of(batch_size))
    listed = _callback_list(model, callbacks, verbose, council, 1, steps or plan.steps)
    logs = keras_seams.pythonify(loop.test(step, plan, listed, steps))
    return logs if return_dict else model._flatten_metrics_in_order(logs)


def predict(
    model: Any,
    x: Any,
    batch_size: int | None = None,
    verbose: Any = "auto",
    steps: int | None = None,
    callbacks: Any = None,
) -> Any:
    """Returns the model's outputs for all rows, as `keras.Model.predict`; the workers share the work.

    Collective: every worker calls this, and gets all rows.
    """
    check_model(model, "predict")
    group, council = _surroundings(model)
    source = Arrays(x)
    step = _ready(model, group, council, source, None, training=False)
    plan = Plan(source, batch_size_of(batch_size))
    listed = _callback_list(model, callbacks, verbose, council, 1, steps or plan.steps)
    return loop.predict(step, plan, listed, steps)


def train_on_batch(
    model: Any,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    return_dict: bool = False,
    *,
    wishes: loop.Wishes | None = None,
) -> Any:
    """Takes one step on one global batch, as `keras.Model.train_on_batch`. Collective: every worker calls this.

    `wishes` is what a run adds; `worker.train_on_batch` gives it.
    """
    check_compiled(model, "train_on_batch")
    source = weights.with_class_weight(Arrays(x, y, sample_weight), class_weight)

    def act(step: Step, batch: Any) -> Any:
        if wishes is not None:
            batch[1][4:] = wishes.wishes()
        results, control, _ = step.train(*batch)
        _, save, leave = loop.heard(control.numpy())
        if wishes is not None and (save or leave):
            wishes.hear(leave)
        return results

    return _on_batch(model, source, return_dict, act)


def test_on_batch(model: Any, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
    """Returns the metrics on one global batch, as `keras.Model.test_on_batch`. Collective: every worker calls this."""
    check_compiled(model, "test_on_batch")
    return _on_batch(model, Arrays(x, y, sample_weight), return_dict, lambda step, batch: step.test(*batch))


def _on_batch(model: Any, source: Arrays, return_dict: bool, act: Callable[[Step, Any], Any]) -> Any:
    group, _ = _surroundings(model)
    weights.check(source)
    check_targets(model, source)
    build(model, source.like)
    step = step_for(model, group, source.like)
    model.reset_metrics()
    (batch,) = Plan(source, source.size).batches(group)
    logs = keras_seams.pythonify(step.logs(act(step, batch)))
    return logs if return_dict else model._flatten_metrics_in_order(logs)


def _surroundings(model: Any) -> tuple[groups.Group, Council]:
    """Returns the replicas that share the model's steps, and the workers that share its decisions."""
    connected = strategies.connected()
    holder = model._distribute_strategy
    if holder is None and isinstance(connected, tf.distribute.MirroredStrategy):
        raise ModelInvalid(
            f'The model "{model.name}" was made outside the scope of the strategy. '
            "Make it, and compile it, inside `with worker.strategy.scope():`."
        )
    if holder is None and connected is None and strategies.worker_count() > 1:
        raise ModelInvalid(
            f'The model "{model.name}" was made outside a strategy\'s scope, but TF_CONFIG names '
            f"{strategies.worker_count()} workers. Make it inside `with strategy.scope():`."
        )
    return groups.of(holder or connected), Council(connected)


def _ready(
    model: Any, group: groups.Group, council: Council, source: Arrays, held_out: Arrays | None, training: bool = True
) -> Step:
    """Checks data and model, builds what is not built, compares what all workers must hold alike."""
    given = [source] if held_out is None else [source, held_out]
    for data in given:
        weights.check(data)
        if training:
            check_targets(model, data)
    if training or not model.built:
        build(model, source.like)
    check_alike(model, given, council)
    return step_for(model, group, source.like)


def _identity(plan: Plan, held_out: Arrays | None) -> dict[str, Any]:
    """Returns what decides which rows every step sees."""
    return {
        "kind": "fit",
        "batch_size": plan.batch_size,
        "shuffle": plan.shuffle,
        "data": plan.source.fingerprint(),
        "validation data": None if held_out is None else held_out.fingerprint(),
    }


def _validation(
    model: Any, group: groups.Group, held_out: Arrays | None, batch_size: int, freq: Any, listed: Any
) -> Callable[[int], dict[str, float]]:
    if held_out is None:
        return lambda epoch: {}
    plan = Plan(held_out, batch_size)
    step = step_for(model, group, held_out.like)

    def validate(epoch: int) -> dict[str, float]:
        due = epoch + 1 in freq if isinstance(freq, list | tuple | set) else (epoch + 1) % freq == 0
        return keras_seams.pythonify(loop.test(step, plan, listed)) if due else {}

    return validate


def _stateful(callbacks: Any, stage: Stage | None) -> list[Any]:
    """Returns the callbacks whose state is the run's, in Keras's order: the author's, History, the run's."""
    own = keras.tree.flatten(callbacks) if callbacks else []
    history = [] if any(isinstance(callback, keras.callbacks.History) for callback in own) else [keras.callbacks.History()]
    return [*own, *history, *(stage.callbacks if stage else [])]


def _callback_list(
    model: Any, callbacks: Any, verbose: Any, council: Council, epochs: int, steps: int, lines: bool = False
) -> keras.callbacks.CallbackList:
    """Returns Keras's list of the callbacks; the chief's shows the progress, a bar on a terminal, else lines."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    if council.index != 0:
        verbose = 0
    if verbose == "auto":
        verbose = 1 if sys.stdout.isatty() else 2
    shown = [EpochLines()] if verbose == 2 and lines else []
    own = keras.tree.flatten(callbacks) if callbacks else []
    return keras.callbacks.CallbackList(
        [*own, *shown], add_progbar=verbose == 1, verbose=verbose, epochs=epochs, steps=steps, model=model
    )


def _seed(council: Council) -> int:
    seed = keras_seams.random_seed()
    return council.chief(secrets.randbelow(2**32) if seed is None else seed)
