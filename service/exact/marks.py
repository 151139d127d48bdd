"""What an author says of a loss function where a step cannot see it."""

from typing import Any, TypeVar

from service.errors import ModelInvalid

_MARK = "_samestep_batch_mean"
Marked = TypeVar("Marked")


def batch_mean(loss: Marked) -> Marked:
    """Says that a loss which returns one number for a batch is the plain mean over the batch's rows.

    Such a number is then computed by each replica of its own rows, and counts by the share b / B.
    Without the mark it is computed by every replica of the whole batch, which is exact whatever the
    number is, but no work is shared. The first step on several replicas finds out a false mark
    and stops the run.

        @service.batch_mean
        def reconstruction(y_true, y_pred):
            return keras.ops.mean(keras.ops.square(y_true - y_pred))

    Args:
        loss: a function of (y_true, y_pred), a class of losses (its mark is there again after
            load_model), or one loss object (its mark is not).

    Returns:
        The same object, so names and saved models stay as they are.

    Raises:
        ModelInvalid: it cannot be marked.
    """
    named = f"{getattr(loss, '__module__', '')}.{getattr(loss, '__qualname__', type(loss).__qualname__)}"
    if not callable(loss):
        raise ModelInvalid(f"service.batch_mean got {loss!r}: expected a loss function, a class of losses or a loss object.")
    if named.startswith("keras.") and hasattr(loss, "__qualname__"):
        raise ModelInvalid(
            f"service.batch_mean got Keras's own {named}, and would mark it for all models. Call it in a function of your own."
        )
    try:
        setattr(loss, _MARK, True)
    except AttributeError:
        raise ModelInvalid(f"service.batch_mean cannot mark {named}. Write it as a function of its own, with def.") from None
    return loss


def is_batch_mean(loss: Any) -> bool:
    """Whether the loss object, its class or the function in it is marked."""
    return getattr(loss, _MARK, False) or getattr(getattr(loss, "fn", None), _MARK, False)
