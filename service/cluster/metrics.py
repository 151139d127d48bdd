"""A run's numbers for Prometheus, by way of Ray's metrics."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from service.cluster.watch import group

EVERY_SECONDS = 1.0

# Every name and what it is, as docs/metrics.md has them; those of PER_WORKER are told by every worker, the others by the chief.
GAUGES = {
    "samestep_steps": "steps completed",
    "samestep_step_timestamp_seconds": "when the last step was complete, in seconds since 1970",
    "samestep_samples_per_second": "rows trained on a second, over all workers",
    "samestep_loss": "the loss, over all workers",
    "samestep_step_seconds": "seconds a step takes on a worker",
    "samestep_data_wait_seconds": "seconds of a step in which a worker waits for its rows",
    "samestep_slowest_worker": "the index of the worker that is busiest in a step",
    "samestep_checkpoint_seconds": "seconds from a checkpoint's snapshot to its commit",
    "samestep_checkpoint_bytes": "bytes that the last checkpoint wrote",
    "samestep_committed_step": "the step of the last commit",
    "samestep_commit_timestamp_seconds": "when that commit was made, in seconds since 1970",
    "samestep_restarts": "how often workers were started again",
}
PER_WORKER = {"samestep_step_seconds", "samestep_data_wait_seconds"}


class Count(NamedTuple):
    """Steps, their rows, and the seconds they waited for them."""

    steps: int = 0
    rows: int = 0
    waited_seconds: float = 0.0

    def plus(self, other: "Count") -> "Count":
        """Returns both together."""
        return Count(self.steps + other.steps, self.rows + other.rows, self.waited_seconds + other.waited_seconds)


class Gauges:
    """Tells how a run goes, at most once a second; every worker has one.

    Args:
        run: the run's name, the tag of all.
        worker: this worker's index, the tag of what is each worker's own.
        relay: hears how busy each worker is, and knows the busiest.
        clock: monotonic seconds.
        busy: seconds of work of this process, on all its threads.
    """

    def __init__(
        self,
        run: str,
        worker: int,
        relay: Any,
        clock: Callable[[], float] = time.monotonic,
        busy: Callable[[], float] = time.process_time,
    ) -> None:
        self._tags, self._worker, self._relay, self._clock, self._busy = {"run": run}, worker, relay, clock, busy
        self._gauges: dict[str, Any] = {}
        self._slowest: Any = None
        self._counted = self._before = Count()
        self._told: tuple[float, float, Count] | None = None

    def stepped(self, step: int, logs: Mapping[str, float] | None, pace: Any) -> None:
        """Hears that so many steps are complete; `pace`, a `training.recording.Pace`, counts from some moment on."""
        count = Count(pace.steps, pace.rows, pace.waited_seconds)
        if count.steps <= self._counted.steps:  # another epoch's
            self._before = self._before.plus(self._counted)
        self._counted = count
        now = self._clock()
        if self._told is not None and now - self._told[0] < EVERY_SECONDS:
            return
        last, self._told = self._told, (now, self._busy(), self._before.plus(count))
        if last is not None:
            self._tell_pace(now - last[0], self._told[1] - last[1], last[2], self._told[2])
        if self._worker == 0:
            self._tell("samestep_steps", step)
            self._tell("samestep_step_timestamp_seconds", time.time())
            if logs and "loss" in logs:
                self._tell("samestep_loss", logs["loss"])

    def _tell_pace(self, seconds: float, busy_seconds: float, then: "Count", now: "Count") -> None:
        steps = now.steps - then.steps
        self._tell("samestep_step_seconds", seconds / steps)
        self._tell("samestep_data_wait_seconds", (now.waited_seconds - then.waited_seconds) / steps)
        self._exchange(busy_seconds / steps)
        if self._worker == 0:
            self._tell("samestep_samples_per_second", (now.rows - then.rows) / seconds)

    def committed(self, step: int, seconds: float, size: int) -> None:
        """Hears, on the chief, that a checkpoint of so many bytes was committed so long after its snapshot."""
        self._tell("samestep_checkpoint_seconds", seconds)
        self._tell("samestep_checkpoint_bytes", size)
        self._tell("samestep_committed_step", step)
        self._tell("samestep_commit_timestamp_seconds", time.time())

    def restarted(self, times: int) -> None:
        """Hears, on the chief, how many attempts there were before this one."""
        self._tell("samestep_restarts", times)

    def _exchange(self, busy_seconds: float) -> None:
        """Tells the relay how busy this worker is, and the gauge what the relay last said."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):  # a relay that died has a follower
            if self._worker == 0 and self._slowest is not None and ray.wait([self._slowest], timeout=0)[0]:
                self._tell("samestep_slowest_worker", ray.get(self._slowest))
            self._slowest = self._relay.busiest.remote(group(), self._worker, busy_seconds)

    def _tell(self, name: str, value: float) -> None:
        from ray.util.metrics import Gauge

        if name not in self._gauges:
            tags = ("run", "worker") if name in PER_WORKER else ("run",)
            self._gauges[name] = Gauge(name, GAUGES[name], tag_keys=tags)
        own = {"worker": str(self._worker)} if name in PER_WORKER else {}
        self._gauges[name].set(value, self._tags | own)
