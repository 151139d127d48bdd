"""Gradients summed over all replicas before the optimizer sees them."""

import types
from typing import Any

import tensorflow as tf
from keras.src.optimizers.base_optimizer import BaseOptimizer

_LOCAL = (
    "_apply_weight_decay",
    "_backend_update_step",
    "_backend_increment_gradient_accumulators",
    "_overwrite_model_variables_with_average_value",
)


def of(tape: tf.GradientTape, loss: Any, variables: list[Any]) -> list[Any]:
    """Returns each variable's gradient on this replica's rows, None where the loss does not reach it.

    Sparse gradients of embeddings become dense, so that they travel with the others.
    """
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    return [g if g is None else tf.convert_to_tensor(g) for g in gradients]


def let_optimizer_apply(optimizer: Any) -> None:
    """Has an optimizer whose variables live in a strategy's scope apply gradients as they are.

    Keras would clip first and sum over replicas afterwards, and some of its options call back
    into the strategy from places where that is not allowed. With gradients that are summed
    already each replica does the same update to its own copy, as the optimizer of one device.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    optimizer._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars
    for name in _LOCAL:
        setattr(optimizer, name, types.MethodType(getattr(BaseOptimizer, name), optimizer))
