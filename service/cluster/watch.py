"""A worker that is stuck is found; what its threads do is written down, and it starts again."""

import contextlib
import faulthandler
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from service.cluster.pulse import Pulse
from service.policies.stalling import Beat, StallPolicy

EVERY_SECONDS = 1.0


class Watch:
    """A thread on each worker that tells the others where it is, and ends the process where nothing moves any more.

    A worker that is stopped from outside tells nothing; the others find themselves waiting for it. One that
    finds something wrong tells all, each writes down its stacks, and Ray starts the group again.

    Args:
        pulse: where this worker is.
        policy: what is stuck.
        tell: tells the others (phase, seconds, problem), and returns their beats and a problem that some worker has.
        keep: writes the stacks' text down.
        end: ends this process.
    """

    def __init__(
        self,
        pulse: Pulse,
        policy: StallPolicy,
        tell: Callable[[str, float, str], tuple[list[Beat], str]],
        keep: Callable[[str], None],
        end: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL),
    ) -> None:
        self._pulse, self._policy, self._tell, self._keep, self._end = pulse, policy, tell, keep, end

    def start(self) -> None:
        """Watches from now on, until the process ends."""
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def look(self, others: list[Beat]) -> tuple[list[Beat], str]:
        """Looks once; returns what the others told, and what is wrong with this worker or another."""
        mine = self._pulse.beat()
        problem = self._policy.problem(mine, others, list(self._pulse.recent))
        others, theirs = self._tell(mine.phase, mine.seconds, problem)
        return others, problem or theirs

    def _watch(self) -> None:
        others: list[Beat] = []
        problem = ""
        while not problem:
            time.sleep(EVERY_SECONDS)  # a worker that is stuck can tell nothing, so it is looked at
            with contextlib.suppress(Exception):  # the relay ends with the run
                others, problem = self.look(others)
        with contextlib.suppress(Exception):  # the stacks are a help; starting again is what counts
            self._keep(f"{problem}\n\n{stacks()}")
        self._end()


def stacks() -> str:
    """Returns what every thread of this process is doing."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def group() -> str:
    """Returns what tells the workers of this attempt from those of another: their addresses."""
    return os.environ.get("TF_CONFIG", "").partition('"task"')[0]


def board(relay: Any, index: int) -> Callable[[str, float, str], tuple[list[Beat], str]]:
    """Returns a `tell` that goes by way of the relay."""
    import ray

    name = group()

    def tell(phase: str, seconds: float, problem: str) -> tuple[list[Beat], str]:
        told, theirs = ray.get(relay.beat.remote(name, index, phase, seconds, problem), timeout=5 * EVERY_SECONDS)
        return [Beat(*beat) for beat in told], theirs

    return tell
