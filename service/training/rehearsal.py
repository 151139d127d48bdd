"""What a model's own step builds and applies, found in a trace that never runs."""

import contextlib
import weakref
from typing import Any

import keras
import tensorflow as tf

from service.errors import ModelInvalid
from service.exact import gradients, keras_seams, losses, metrics, noise, normalization
from service.exact.group import Group, Rows
from service.exact.replica import Replica, acting
from service.training.flat import Inputs

_REHEARSED: "weakref.WeakKeyDictionary[Any, dict[Any, list[Any]]]" = weakref.WeakKeyDictionary()


def brings(model: Any, *names: str) -> bool:
    """Whether the model has one of these methods of its own instead of Keras's."""
    return any(name in vars(model) or getattr(type(model), name) is not getattr(keras.Model, name) for name in names)


def optimizers(model: Any) -> list[Any]:
    """Returns the optimizers that train the model: the compiled one, and those that its own train_step applies besides."""
    held = [value for value in vars(model).values() if isinstance(value, keras.optimizers.Optimizer)]
    applied = [optimizer for found in _REHEARSED.get(model, {}).values() for optimizer in found]
    every = [optimizer for optimizer in (model.optimizer, *held, *applied) if optimizer is not None]
    return list({id(optimizer): optimizer for optimizer in every}.values())


def rehearse(model: Any, like: Any) -> None:
    """Traces the model's train_step once, as Keras does in its first step, and builds the optimizers that it applies.

    Layers and metrics that are not built yet come into being in the trace.

    Raises:
        ModelInvalid: under a strategy that holds the variables, a layer is not built yet.
    """
    inputs = Inputs(like)
    key = (id(model._loss_tracker), id(model.optimizer))
    done = _REHEARSED.setdefault(model, {})
    if key in done:
        return
    holder = model._distribute_strategy
    if holder is not None:
        if type(model).call is not keras.Model.call:
            build(model, like, training=True)
        _check_built(model)
    for seams in (losses, noise, normalization, metrics, gradients):
        seams.install()
    keras_seams.global_seed_generator()
    applied: list[tuple[Any, Any]] = []

    def act(flat: Any) -> None:
        data = inputs.packed(flat)
        total = tf.shape(flat[0])[0]
        replica = Replica(Group(), Rows(0, total, total), None, metrics.trackers(model))
        replica.takes_own_step, replica.applied = True, applied
        with acting(replica):
            model.train_step(keras.utils.pack_x_y_sample_weight(*data))

    def trace(*flat: Any) -> None:
        if holder is None:
            act(flat)
        else:
            holder.run(act, args=(flat,))

    # A step that runs eagerly may do what no trace can, such as reading values; then nothing is found out.
    with contextlib.suppress(*((Exception,) if model.run_eagerly else ())):
        tf.function(trace, input_signature=inputs.signature, autograph=False).get_concrete_function()
    with model.distribute_strategy.scope():
        for optimizer, variables in applied:
            if not optimizer.built and variables is not None:
                optimizer.build(variables)
    done.clear()
    done[key] = list({id(optimizer): optimizer for optimizer, _ in applied}.values())


def build(model: Any, like: Any, training: bool) -> None:
    """Builds what of a model, its losses, metrics and optimizer is not built yet, by calls with symbols.

    Args:
        model: the model.
        like: (x, y, sample_weight) of arrays like the data's.
        training: whether losses and metrics matter too; to predict, the model alone does.
    """
    symbolic = keras.tree.map_structure(
        lambda t: None if t is None else keras.KerasTensor((None, *t.shape[1:]), str(t.dtype)), like
    )
    with model.distribute_strategy.scope():
        if training:
            model._symbolic_build(data_batch=symbolic)
        elif not model.built:
            keras.src.backend.compute_output_spec(model, symbolic[0], training=False)


def _check_built(model: Any) -> None:
    unbuilt = [layer.name for layer in model._flatten_layers(include_self=False) if not layer.built]
    if unbuilt:
        raise ModelInvalid(
            f'{type(model).__name__} has a train_step of its own, and its layer "{unbuilt[0]}" is not built yet. Under a '
            "strategy that holds the variables, build the layers before fit: give them an Input, or call the model once in "
            "the scope."
        )
