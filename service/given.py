"""The data that fit and its siblings are given, as plans of checked batches."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from service.checks import batch_size_of, check_targets
from service.cluster.consensus import Council
from service.data import weights
from service.data.batches import Shuffle
from service.data.opening import opened
from service.data.sources import Arrays
from service.data.streams import Stream
from service.errors import DataInvalid
from service.training.plan import ArrayPlan, Plan
from service.training.stream_plan import StreamPlan

Prepare = Callable[[Arrays], Arrays]


def training(
    model: Any,
    council: Council,
    data: tuple[Any, Any, Any],
    *,
    class_weight: Any,
    batch_size: int | None,
    seed: int,
    shuffle: Shuffle,
    steps_per_epoch: int | None,
    first_epoch: int,
    validation_split: float,
    same_everywhere: bool,
) -> tuple[Plan, Arrays | None]:
    """Returns the plan to train by, and the rows that validation_split holds out. Collective: every worker calls this.

    Raises:
        DataInvalid: the arguments do not go together.
    """
    source = opened(*data, council, shuffle=shuffle, seed=seed, same_everywhere=same_everywhere)
    held_out = None
    if validation_split:
        if not isinstance(source, Arrays):
            raise DataInvalid(
                f"validation_split={validation_split} needs arrays, of which it takes the last rows. Give validation_data."
            )
        source, held_out = source.split(validation_split)
    _check_steps("steps_per_epoch", steps_per_epoch, source)
    prepare = _weighing(model, class_weight)
    if isinstance(source, Arrays):
        rows = _rows_a_batch(batch_size, source, steps_per_epoch)
        return ArrayPlan(prepare(source), rows, seed, shuffle, steps_per_epoch, first_epoch), held_out
    say = _say if council.index == 0 else lambda sentence: None
    return StreamPlan(source, prepare, steps_per_epoch, True, first_epoch, say), None


def testing(
    model: Any,
    council: Council,
    data: tuple[Any, Any, Any],
    batch_size: int | None,
    steps: int | None,
    *,
    name: str = "steps",
    of: str = "",
    same_everywhere: bool = False,
    targets: bool = True,
) -> Plan:
    """Returns the plan to evaluate or predict by. Collective: every worker calls this.

    Args:
        name: what `steps` is called in a message.
        of: what stands in front of an argument's name in a message.
        targets: whether targets and weights are looked at; `predict` does not.

    Raises:
        DataInvalid: the arguments do not go together.
    """
    return planned(model, opened(*data, council, same_everywhere=same_everywhere, of=of), batch_size, steps, name, targets)


def validating(
    model: Any, council: Council, validation_data: Any, batch_size: int | None, steps: int | None, same_everywhere: bool
) -> Plan:
    """Returns the plan to validate by a tuple of arrays, or by a stream. Collective: every worker calls this."""
    data = (validation_data, None, None)
    if isinstance(validation_data, tuple | list):
        data = keras.utils.unpack_x_y_sample_weight(tuple(validation_data))
    of = "validation_data's "
    return testing(model, council, data, batch_size, steps, name="validation_steps", of=of, same_everywhere=same_everywhere)


def planned(
    model: Any, source: Arrays | Stream, batch_size: int | None, steps: int | None, name: str, targets: bool = True
) -> Plan:
    """Returns the plan to evaluate or predict a source by, in its own order."""
    _check_steps(name, steps, source)
    prepare: Prepare = _weighing(model, None) if targets else _inputs_only
    if isinstance(source, Arrays):
        return ArrayPlan(prepare(source), _rows_a_batch(batch_size, source, steps))
    return StreamPlan(source, prepare, steps, goes_on=False)


def arrays_of(plan: Plan) -> list[Arrays]:
    """Returns the arrays that every worker must hold alike; a stream's batches are compared as they come."""
    return [plan.source] if isinstance(plan, ArrayPlan) else []


def inputs_of(plan: Plan | None) -> Any:
    """Returns the inputs of all rows, where the plan is of arrays."""
    return plan.source.like[0] if isinstance(plan, ArrayPlan) else None


def _weighing(model: Any, class_weight: Any) -> Prepare:
    """Returns what checks a batch, or all rows, and multiplies the weights of samples and classes."""

    def weighed(source: Arrays) -> Arrays:
        weights.check(source)
        x, y, given = source.like
        found = weights.weighed(model, x, y, given, class_weight)
        check_targets(model, source)
        return source if found is given else Arrays(x, y, found, of=source.of)

    return weighed


def _inputs_only(source: Arrays) -> Arrays:
    return source.inputs()


def _rows_a_batch(batch_size: int | None, source: Arrays, steps: int | None) -> int:
    """Returns the rows of a global batch; with a number of steps alone, Keras's: all rows in that many."""
    if batch_size is None and steps is not None:
        return -(-source.size // steps)
    return batch_size_of(batch_size)


def _check_steps(name: str, steps: Any, source: Arrays | Stream) -> None:
    if steps is None:
        if getattr(source, "is_endless", False):
            raise DataInvalid(f"{source.of}x never ends: give {name}, the batches that are one epoch.")
    elif not isinstance(steps, int | np.integer) or isinstance(steps, bool) or steps < 1:
        raise DataInvalid(f"{name}={steps!r}: expected how many global batches, a whole number, 1 or more.")


def _say(sentence: str) -> None:
    print(sentence, flush=True)
