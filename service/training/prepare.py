"""A model made ready: built, and given the one compiled step that serves its data."""

import weakref
from typing import Any

import keras
import numpy as np

from service.errors import ModelInvalid
from service.exact.group import Group
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
        keep[key] = Step(model, group, like)
    return keep[key]


def build(model: Any, like: Any) -> None:
    """Builds what of the model, its losses, metrics and optimizer is not built yet, from arrays like the data.

    Raises:
        ModelInvalid: the model brings a step of its own.
    """
    for name in ("train_step", "test_step", "predict_step", "compute_metrics"):
        if getattr(type(model), name) is not getattr(keras.Model, name):
            raise ModelInvalid(
                f"{type(model).__name__} overrides {name}, which is not exact on several replicas yet. Override compute_loss "
                "instead, or give the loss and the metrics to compile()."
            )
    batch = keras.tree.map_structure(lambda t: None if t is None else np.empty((1, *t.shape[1:]), t.dtype), like)
    symbolic = keras.tree.map_structure(
        lambda t: None if t is None else keras.KerasTensor((None, *t.shape[1:]), str(t.dtype)), batch
    )
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=symbolic)
