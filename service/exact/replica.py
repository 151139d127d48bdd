"""One replica inside one step: the rows it holds, and what it notes of them."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from service.exact.group import Group, Rows

_ACTIVE = threading.local()  # MirroredStrategy traces each replica in a thread of its own


class Replica:
    """One replica inside one step: the group it belongs to and the rows it holds.

    Attributes:
        group: the replicas that take the step together.
        rows: this replica's part of the global batch.
        weight_sums: [] floating sums over the global batch, by the id of the weight tensor given to the step.
        output_losses: each output's loss as this replica's part of it, in the order they are computed.
        added_losses: what layers gave to add_loss, with the layer.
        assumptions: where a number for a batch was taken for the mean over its rows, which the first step checks.
        takes_own_step: whether the model's own train_step or test_step runs, which reads metrics and applies gradients itself.
        output_trackers: ids of the metrics in which Keras keeps the outputs' losses.
        updates: what metrics were updated with and the other replicas have not heard of, see `metrics`.
        unreduced: [] how many values a loss without reduction has in the global batch; None where there is no such loss.
        results: what metrics gave; they are global numbers.
        averaged: variables that each replica moved by its own rows, see `normalization`.
        applied: the optimizers that a step applies and their variables, in a rehearsal, which only finds out; else None.
        reduced: takes the whole batch's gradients by the weights' paths, where they are asked for; else None.
    """

    def __init__(
        self, group: Group, rows: Rows, weight_sums: dict[int, Any] | None = None, output_trackers: Sequence[Any] = ()
    ) -> None:
        self.group = group
        self.rows = rows
        self.weight_sums = weight_sums or {}
        self.output_losses: list[Any] = []
        self.added_losses: list[tuple[Any, Any]] = []
        self.assumptions: list[str] = []
        self.unreduced: Any = None
        self.takes_own_step = False
        self.output_trackers = frozenset(id(metric) for metric in output_trackers)
        self.updates: list[Any] = []
        self.results: list[Any] = []
        self.averaged: list[Any] = []
        self.applied: list[tuple[Any, Any]] | None = None
        self.reduced: dict[str, Any] | None = None

    @property
    def is_alone(self) -> bool:
        return self.group.size == 1

    def logged(self, loss: Any) -> Any:
        """Returns the loss as Keras writes it down: of one that is not reduced the gradient is the sum's, the log the mean."""
        return loss if self.unreduced is None else loss / tf.cast(self.unreduced, loss.dtype)

    def share(self, dtype: Any) -> Any:
        """Returns [] this replica's share b_r / B of the global batch."""
        return tf.cast(self.rows.count, dtype) / tf.cast(self.rows.total, dtype)

    def own(self, tensor: Any) -> Any:
        """Returns the rows [b, ...], or [k * b, ...] where each row has k entries; none of an idle replica's copy."""
        return tensor if self.is_alone else tensor[: tf.shape(tensor)[0] * tf.minimum(self.rows.count, 1)]

    def entries(self, tensor: Any) -> Any:
        """Returns [] int32: how many leading entries such a tensor has on all replicas together."""
        return self.rows.total * (tf.shape(tensor)[0] // tf.maximum(self.rows.count, 1))

    def if_busy(self, tensor: Any) -> Any:
        """Returns the tensor, or zeros where this replica only runs a copy."""
        return tensor if self.is_alone else tf.where(self.rows.count > 0, tensor, tf.zeros_like(tensor))

    def leads(self, tensor: Any) -> bool:
        """Whether the tensor's first dimension is the batch: a step is traced with that one unknown."""
        if tensor.shape.rank is None or tensor.shape.rank == 0:
            return False
        if tf.executing_eagerly():
            return int(tensor.shape[0]) == max(int(self.rows.count), 1)
        return tensor.shape[0] is None

    def placed_rows(self, tensor: Any) -> Any:
        """Returns [total, ...] zeros with this replica's rows at theirs; the sum over replicas is the whole batch.

        A tensor [k * b, ...] is taken for k batches one after the other, as concatenating them gives.
        """
        if self.is_alone:
            return tensor
        shape = tf.concat([[self.entries(tensor)], tf.shape(tensor)[1:]], 0)
        placed = tf.scatter_nd(self._places(tensor)[:, None], self.own(tensor), shape)
        return tf.ensure_shape(placed, [None, *tensor.shape[1:]])

    def _places(self, tensor: Any) -> Any:
        """Returns where the own rows of a tensor stand in the whole batch's."""
        held = tf.maximum(self.rows.count, 1)
        rows = tf.range(tf.shape(tensor)[0] * tf.minimum(self.rows.count, 1))
        return rows // held * self.rows.total + self.rows.start + rows % held

    def whole(self, tensors: Sequence[Any]) -> list[Any]:
        """Returns each tensor [total, ...] with the rows of all replicas; the gradient goes to this replica's own rows.

        For a computation that every replica then does alike on the whole batch: its
        gradient by the rows of replica r is what replica r contributes to the sum.
        Collective: every replica calls this.
        """
        if self.is_alone:
            return list(tensors)

        def own_rows(upstream: Any, part: Any) -> Any:
            mine = tf.gather(upstream, self._places(part))
            return tf.pad(mine, [[0, tf.shape(part)[0] - tf.shape(mine)[0]]] + [[0, 0]] * (part.shape.rank - 1))

        @tf.custom_gradient
        def gathered(*parts: Any) -> Any:
            def back(*upstream: Any) -> list[Any]:
                return [own_rows(up, p) if p.dtype.is_floating else None for up, p in zip(upstream, parts, strict=True)]

            return tuple(self.group.sum([self.placed_rows(part) for part in parts])), back

        return list(gathered(*tensors))


def current() -> Replica | None:
    """Returns the replica whose step is being traced or run by this thread, else None."""
    return getattr(_ACTIVE, "replica", None)


@contextlib.contextmanager
def acting(replica: Replica | None) -> Iterator[Replica | None]:
    """Makes Keras act for `replica` in this thread; elsewhere it stays untouched."""
    before = current()
    _ACTIVE.replica = replica
    try:
        yield replica
    finally:
        _ACTIVE.replica = before
