"""A model with its replicas and workers known, its data compared, its step compiled."""

from typing import Any

import tensorflow as tf

from service import given
from service.callbacks import alone
from service.checks import check_alike
from service.cluster import strategy as strategies
from service.cluster.consensus import Council
from service.errors import ModelInvalid
from service.exact import group as groups
from service.training.plan import Plan
from service.training.prepare import build, step_for
from service.training.step import Step


def surroundings(model: Any) -> tuple[groups.Group, Council]:
    """Returns the replicas that share the model's steps, and the workers that share its decisions."""
    connected = strategies.connected()
    if strategies.worker_count() > 1:
        alone.check_together("A method of service or of the worker")
    holder = model._distribute_strategy
    if holder is None and isinstance(connected, tf.distribute.MirroredStrategy | tf.distribute.TPUStrategy):
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


def ready(model: Any, group: groups.Group, council: Council, plan: Plan, held_out: Plan | None, training: bool = True) -> Step:
    """Builds what is not built, compares what all workers must hold alike, and returns the step for the plan's batches."""
    for rows in sorted({*plan.sizes, *(held_out.sizes if held_out is not None else ())}, reverse=True):
        group.check_rows(rows)
    if training or not model.built:
        build(model, plan.like, training)
    arrays = [*given.arrays_of(plan), *(given.arrays_of(held_out) if held_out is not None else ())]
    check_alike(model, arrays, council)
    return step_for(model, group, plan.like)
