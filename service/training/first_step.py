"""The first step on several replicas is compared with one device's."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from service.errors import NotExact
from service.exact import metrics, normalization
from service.exact.group import Group, Rows
from service.exact.replica import Replica, acting
from service.training.own_moves import OwnMoves
from service.training.own_step import OwnStep
from service.training.step import Step

# Between two orders of adding the same numbers.
_TOLERANCES = {"float64": 1e-9, "float32": 1e-4}
_HALF_PRECISION = 2e-2


class FirstStep:
    """Holds what is before the first step, to find out what one device would have done."""

    def __init__(self, step: Step) -> None:
        self._step = step
        own = isinstance(step, OwnStep) and step.trains_itself
        self._check: Loss | OwnMoves = OwnMoves(step) if own else Loss(step)  # type: ignore[arg-type]  # `own` tells that it is an OwnStep

    def compare(self, flat: list[np.ndarray], weight_sums: np.ndarray, did: Any) -> None:
        """Compares what the step did with one device's step on the whole batch, where that is not known ahead.

        Args:
            flat: the arrays of the whole batch.
            weight_sums: the sums of its weights.
            did: what the step gave to compare; None where it was not taken, because a worker wished to stop.

        Raises:
            NotExact: naming what differs, and what to write instead.
        """
        if did is None:
            return
        self._step.is_checked = True
        if not normalization.has_local(self._step.model):
            self._check.compare(flat, weight_sums, did)


class Loss:
    """Holds the variables as they are before the first step, to compute its loss again as one device would.

    A layer that gives add_loss one number for a batch, or a model with a compute_loss of its
    own, does not say what that number is of the rows. It is taken for their mean. Where that is
    wrong the two losses differ, and the run stops before it has trained anything wrong.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._state = [(v, tf.identity(v.value)) for v in step.model.variables]

    def compare(self, flat: list[np.ndarray], weight_sums: np.ndarray, loss: Any) -> None:
        """Compares the step's loss with one device's on the whole batch, if the step had to assume anything.

        Raises:
            NotExact: naming where the number comes from, and what to write instead.
        """
        assumptions = [*_own_code(self._step.model), *self._step.assumptions]
        if not assumptions:
            return
        signature = [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in flat]
        variables, values = zip(*self._state, strict=True)

        @tf.function(autograph=False)
        def whole(rows: Any, sums: Any, held: Any) -> Any:
            return self._whole_loss(rows, sums, list(zip(variables, held, strict=True)))

        specs = [tf.TensorSpec(v.shape, v.dtype) for v in values]
        expected = whole.get_concrete_function(signature, tf.TensorSpec(weight_sums.shape, weight_sums.dtype), specs)
        alone, together = (
            float(tf.reduce_mean(expected([*map(tf.constant, flat)], tf.constant(weight_sums), [*values]))),
            float(loss),
        )
        tolerance = _TOLERANCES.get(self._step.model.compute_dtype, _HALF_PRECISION)
        if abs(alone - together) > tolerance * max(1.0, abs(alone)):
            raise NotExact(
                f"The first step's loss is {together:.8g} on {self._step.group.size} replicas and {alone:.8g} on one device. "
                f"One number for a batch comes from {' and '.join(dict.fromkeys(assumptions))}; it was taken for "
                "the mean over the batch's rows, and it is not that. Give one value for each row: add_loss sums them, "
                "and a loss function given to compile divides by the rows."
            )

    def _whole_loss(self, flat: Any, weight_sums: Any, state: list[tuple[Any, Any]]) -> Any:
        """Returns [] the loss of one device on a whole batch [B, ...], from the given values of the variables.

        Nothing changes: what the forward pass moves, it moves in a scope that is thrown away.
        """
        x, y, sample_weight = data = self._step.inputs.packed(flat)
        total = tf.shape(flat[0])[0]
        sums = self._step.inputs.weight_sums(data, weight_sums)
        alone = Replica(Group(), Rows(0, total, total), sums, metrics.trackers(self._step.model))
        with acting(alone), keras.StatelessScope(state_mapping=state, collect_losses=True):
            y_pred = self._step.call(x, training=True)
            return self._step.model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)


def _own_code(model: Any) -> list[str]:
    """Returns what of the loss is the author's own code, inside which no seam of this package sees."""
    own = type(model).compute_loss is not keras.Model.compute_loss
    return [f"{type(model).__name__}.compute_loss"] if own else []
