"""A model made ready: built, and given the one compiled step that serves its data."""

import weakref
from typing import Any

import keras

from service.errors import ModelInvalid
from service.exact.group import Group
from service.training import rehearsal
from service.training.own_step import OwnStep
from service.training.step import Step

_STEPS: "weakref.WeakKeyDictionary[Any, dict[Any, Step]]" = weakref.WeakKeyDictionary()


def step_for(model: Any, group: Group, like: Any) -> Step:
    """Returns the model's step for data like (x, y, sample_weight), compiled once until `compile` is called again."""
    keep = _STEPS.setdefault(model, {})
    spec = keras.tree.map_structure(lambda t: None if t is None else (tuple(t.shape[1:]), str(t.dtype)), like)
    trained = tuple(id(v) for v in model.trainable_variables) if model.built else ()
    compiled = (id(model._loss_tracker), id(model.optimizer)) if model.compiled else ()
    key = (compiled, id(group), repr(spec), trained)
    if key not in keep:
        kind = OwnStep if rehearsal.brings(model, "train_step", "test_step", "compute_metrics") else Step
        keep[key] = kind(model, group, like)
    return keep[key]


def build(model: Any, like: Any, training: bool = True) -> None:
    """Builds what of the model, its losses, metrics and optimizer is not built yet, from arrays like the data.

    Raises:
        ModelInvalid: the model replaces the loop around its steps, or a part of it cannot be built.
    """
    for name in ("make_train_function", "make_test_function", "make_predict_function"):
        if rehearsal.brings(model, name):
            raise ModelInvalid(
                f"{type(model).__name__} overrides {name}, the loop that SameStep replaces. Override train_step, test_step or "
                "predict_step instead."
            )
    if training and rehearsal.brings(model, "train_step"):
        rehearsal.rehearse(model, like)
    else:
        rehearsal.build(model, like, training)
