"""Where this worker's training is, for whoever watches it."""

import collections
import functools
import time
from collections.abc import Callable
from typing import Any

from service.policies.stalling import OUTSIDE, STEP, Beat

BETWEEN = "what comes between steps (callbacks, data, saves)"
_RECENT = 50


class Pulse:
    """Which phase a worker is in and since when, and how long its last steps took; costs a step two clock readings.

    Attributes:
        recent: the seconds of the last steps.
        begun: how many steps this process has begun.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now = (OUTSIDE, clock())
        self._depth = 0
        self.begun = 0
        self.recent: collections.deque[float] = collections.deque(maxlen=_RECENT)

    def beat(self) -> Beat:
        """Returns where the worker is."""
        phase, since = self._now
        return Beat(phase, self._clock() - since)

    def looping(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, in whose calls what is no step comes between steps; outside, it is the job's own code."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            self._leave(self._clock())
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                self._leave(self._clock())

        return call

    def stepping(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, whose calls are steps; the first one compiles."""
        is_known = False

        def call(*args: Any) -> Any:
            nonlocal is_known
            began = self._clock()
            self.begun += 1
            self._now = (STEP if is_known else "compiling a step", began)
            try:
                return function(*args)
            finally:
                ended = self._clock()
                if is_known:
                    self.recent.append(ended - began)
                is_known = True
                self._leave(ended)

        if hasattr(function, "get_concrete_function"):  # who looks at a step's graph finds it
            call.get_concrete_function = function.get_concrete_function  # type: ignore[attr-defined]  # as TensorFlow sets it
        return call

    def _leave(self, now: float) -> None:
        """What comes now is no step."""
        self._now = (BETWEEN if self._depth else OUTSIDE, now)


PULSE = Pulse()
