"""What an author's first train_step did on several replicas, compared with one device's."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from service.errors import NotExact
from service.training.own_step import OwnStep, all_metrics
from service.training.rehearsal import optimizers

# Of a distance over the length of the step itself: between two orders of adding the same numbers
# there is little, while the mistakes this finds (a mean counted on every replica, gradients
# clipped before their sum) are of the order of the step.
_STRICT = {"float64": 1e-6, "float32": 1e-2}
_STRICT_HALF = 0.2
# For the weights beside an optimizer with a state: Adam makes whole steps of gradients that are
# only rounding noise, and its state, which is compared strictly, tells the noise from the rest.
_LOOSE = {"float64": 1e-6, "float32": 0.3}
_LOOSE_HALF = 0.5


class _Place(NamedTuple):
    """A variable that the step can reach: a handle, its type, and what it is."""

    handle: Any
    dtype: Any
    kind: str
    name: str


class OwnMoves:
    """Holds all variables as they are before the first step, to take it again as one device would.

    What stands in a train_step of the author's own no seam can read. So the step on the whole
    batch is taken from the same state, and what the two did is compared: the optimizers' states,
    the weights, the metrics and what the step returned. The variables end as the replicas left them.
    """

    def __init__(self, step: OwnStep) -> None:
        self._step = step
        self._places = _places(step)
        self._unbuilt = [optimizer for optimizer in optimizers(step.model) if not optimizer.built]
        self._before = self._read()

    def compare(self, flat: list[np.ndarray], weight_sums: np.ndarray, did: Any) -> None:
        """Takes the step again as one device and compares. No collective: every worker does the same.

        Raises:
            NotExact: naming what differs first, and what to write instead.
        """
        if any(optimizer.built for optimizer in self._unbuilt):
            return  # it came into being in an eager step, and what it was before is not known
        together, logs = self._read(), self._step.logs(did)
        self._write(self._before)
        alone_logs = self._step.logs(self._step.take_alone([*map(tf.constant, flat)], tf.constant(weight_sums)))
        alone = self._read()
        self._write(together)
        dtype = self._step.model.compute_dtype
        strict, loose = _STRICT.get(dtype, _STRICT_HALF), _LOOSE.get(dtype, _LOOSE_HALF)
        slots = [i for i, place in enumerate(self._places) if place.kind == "slot"]
        weights = [i for i, place in enumerate(self._places) if place.kind == "weight"]
        for chosen, tolerance in ((slots, strict), (weights, loose if slots else strict)):
            apart = _apart([together[i] for i in chosen], [alone[i] for i in chosen], [self._before[i] for i in chosen])
            if apart > tolerance:
                raise NotExact(self._text("gradients", apart, self._worst(chosen, together, alone)))
        for i, place in enumerate(self._places):
            if place.kind.startswith("metric ") and _apart([together[i]], [alone[i]], [self._before[i]]) > strict:
                raise NotExact(
                    f"The first train_step left the metric {place.kind[7:]} otherwise on {self._step.group.size} replicas than "
                    f"on one device. {_METRICS}"
                )
        for name, value in alone_logs.items():
            gap, size = np.max(np.abs(np.subtract(logs[name], value))), np.max(np.abs(value))
            if gap > strict * max(size, 1e-7):
                raise NotExact(
                    f'The first train_step returned "{name}" = {logs[name]} on {self._step.group.size} replicas and {value} on '
                    f"one device. {_LOGS}"
                )

    def _text(self, what: str, apart: float, worst: str) -> str:
        return (
            f"The first train_step of {type(self._step.model).__name__} moved the {what} otherwise on "
            f"{self._step.group.size} replicas than on one device: they are apart by {apart:.2g} times the step, most in "
            f"{worst}. {_GRADIENTS}"
        )

    def _worst(self, chosen: list[int], together: list[np.ndarray], alone: list[np.ndarray]) -> str:
        return self._places[max(chosen, key=lambda i: float(np.max(np.abs(together[i] - alone[i]), initial=0.0)))].name

    def _read(self) -> list[np.ndarray]:
        return [np.array(tf.raw_ops.ReadVariableOp(resource=p.handle, dtype=p.dtype)) for p in self._places]

    def _write(self, values: list[np.ndarray]) -> None:
        for place, value in zip(self._places, values, strict=True):
            tf.raw_ops.AssignVariableOp(resource=place.handle, value=tf.constant(value, place.dtype))


_GRADIENTS = (
    "The tensors in a train_step are one replica's rows, and its gradients are summed. Take the loss from self.compute_loss or "
    "a keras.losses.Loss, which divide by the whole batch, or write service.share(keras.ops.mean(...)) for a mean of your own. "
    "Give gradients to optimizer.apply as they are, and clip with the optimizer's clipnorm or global_clipnorm. "
    "Draw noise with keras.random, not tf.random, with the batch first. See docs/custom_steps.md."
)
_METRICS = (
    "A number given to update_state counts as this replica's part, and the parts are summed: take it from a keras loss or as a "
    "sum over rows, or write service.share(...) where it is a mean over rows or the same on all replicas."
)
_LOGS = (
    "What a metric's result() gave stays as it is, and any other tensor is summed over the replicas: return the result itself, "
    "or service.share(...) of a value that is a mean over rows or the same on all replicas."
)


def _apart(ones: list[np.ndarray], others: list[np.ndarray], before: list[np.ndarray]) -> float:
    """Returns the distance of two states over the length of the step to the second, but for rounding."""
    gap, length, size, rounding = 0.0, 0.0, 0.0, 0.0
    for one, other, start in zip(ones, others, before, strict=True):
        if one.dtype.kind == "f" and one.dtype.itemsize > 2:
            rounding = max(rounding, float(np.finfo(one.dtype).eps))
        one, other, start = (array.astype(np.float64) for array in (one, other, start))
        gap += float(np.sum(np.square(one - other)))
        length += float(np.sum(np.square(other - start)))
        size += float(np.sum(np.square(other)))
    gap, length, size = gap**0.5, length**0.5, size**0.5
    gap = max(0.0, gap - 4 * (rounding or 1e-2) * size) if gap == gap else np.inf
    return 0.0 if gap == 0 else gap / length if length > 0 else np.inf


def _places(step: OwnStep) -> list[_Place]:
    """Returns every variable that the step can reach, also those that Keras does not know."""
    model = step.model
    every = optimizers(model)
    # A wrapper of an optimizer lists the inner one's variables too.
    rates = {id(v) for o in every for v in (*o._variables[:2], *getattr(o, "inner_optimizer", o)._variables[:2])}
    kinds = [("slot", v) for o in every for v in o.variables if v.value.dtype.is_floating and id(v) not in rates]
    kinds += [("other", v) for o in every for v in o.variables]
    kinds += [(f'metric "{metric.name}"', v) for metric in all_metrics(model) for v in metric.variables]
    kinds += [("weight" if v.value.dtype.is_floating else "other", v) for v in model.variables]
    places: dict[int, _Place] = {}
    for kind, variable in kinds:
        for part in getattr(variable.value, "values", None) or (variable.value,):
            places.setdefault(id(part.handle), _Place(part.handle, part.dtype, kind, variable.path))
    if hasattr(step.take, "get_concrete_function"):
        for handle, _ in step.take.get_concrete_function().graph.captures:
            if handle.dtype == tf.resource and handle._handle_data is not None and handle._handle_data.is_set:
                dtype = tf.as_dtype(handle._handle_data.shape_and_type[0].dtype)
                if dtype.is_floating or dtype.is_integer or dtype.is_bool:
                    places.setdefault(id(handle), _Place(handle, dtype, "other", "a variable of the author's own"))
    return list(places.values())
