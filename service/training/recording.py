"""What a loop tells whoever records a run beside its logs: its pace, and a step's gradients."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

Item = TypeVar("Item")


class Recording(Protocol):
    """Who records; every worker asks its own, and all answer alike."""

    def wants_gradients(self, batch: int) -> bool:
        """Whether the gradients of the step on the epoch's batch of this number are wanted."""

    def take(self, step: Any, gradients: Mapping[str, np.ndarray], pace: "Pace") -> None:
        """A step was taken; its gradients, by the weights' paths, are there where they were wanted."""


class Pace:
    """How fast the steps of an epoch are, since `begin`.

    Attributes:
        rows: rows of the global batches.
        last_rows: rows of the last one.
        steps: steps taken.
        seconds: from the beginning to the end of the last step.
        waited_seconds: how much of that was spent waiting for data.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begins to count anew."""
        self.rows = self.last_rows = self.steps = 0
        self.seconds = self.waited_seconds = 0.0
        self._began = time.monotonic()

    def timed(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Yields the batches, and counts how long each took to come."""
        while True:
            began = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waited_seconds += time.monotonic() - began
            yield batch

    def count(self, rows: int) -> None:
        """A step on so many rows was taken."""
        self.rows += rows
        self.last_rows = rows
        self.steps += 1
        self.seconds = time.monotonic() - self._began
