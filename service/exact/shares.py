"""How much of the global batch a value computed in an author's own step stands for."""

from typing import Any

import keras

from service.exact.replica import current


def share(value: Any) -> Any:
    """Returns this replica's part of a mean over the batch's rows, from the mean over its own ones.

    In a train_step or test_step of your own the tensors hold one replica's rows. What goes into
    gradients, metrics and logs must be the replica's part, so that the parts add up to the
    whole batch's value. Losses of Keras and compute_loss are parts already. A mean that you
    take yourself is not: the replica's rows are b of B, so it counts by b / B.

        loss = service.share(keras.ops.mean(keras.ops.square(y - y_pred)))

    A value that is the same on every replica, such as a norm of the weights, becomes a part the
    same way. A sum over rows is one as it is. On one device, and outside a step, nothing changes.

    Args:
        value: a number or tensor; the mean over rows of this replica, or the same on all.

    Returns:
        value * b / B, where this replica holds b of the global batch's B rows; 0 where it holds none.
    """
    replica = current()
    if replica is None or replica.is_alone:
        return value
    value = keras.ops.convert_to_tensor(value)
    if not value.dtype.is_floating:
        value = keras.ops.cast(value, keras.config.floatx())
    return replica.if_busy(value) * replica.share(value.dtype)
