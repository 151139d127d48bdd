"""Which failures of workers end a run at once, and which start them again."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from service.cluster.pulse import PULSE
from service.errors import JobFailed, ServiceError, StartAgain, StorageAway, StorageError, WorkersLost
from service.policies.restarting import Failure, reason_to_end

_ANSWER_SECONDS = 2.0
_AGAIN_SECONDS = 0.2
_NODE_DIED = "its node has died"  # Ray's words; there is no field for it


class StopAtErrors(WorkerGroupCallback):
    """Runs in Ray Train's controller: an error of the job or its data is raised there, which ends the run.

    After anything else, such as a process that died or a collective that lost its peer, Ray Train
    starts all workers again, for as long as `policies.restarting` sees a point in it.

    Args:
        relay: takes what is said to the driver.
        position: tells the number of the newest checkpoint.
        max_restarts: how often workers are started again without a new one.
        url: the run's folder, for a message.
    """

    def __init__(self, relay: Any, position: Callable[[], int], max_restarts: int, url: str) -> None:
        self._relay, self._position, self._max_restarts, self._url = relay, position, max_restarts, url
        self._failures: list[Failure] = []
        self._group: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Remembers the workers, of which those that live are asked how far they were."""
        self._group = worker_group

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Raises the first worker's error that starting again would only repeat."""
        errors = worker_group_status.errors
        if not errors or self._group is None:
            return
        group, self._group = self._group, None  # one judgement for a group, however often it is polled
        causes = {worker: _cause(error) for worker, error in sorted(errors.items())}
        if any(isinstance(cause, StartAgain) or getattr(cause, "preempted", False) for cause in causes.values()):
            return
        for worker, cause in causes.items():
            if isinstance(cause, ServiceError) and not isinstance(cause, StorageAway):
                raise cause
            if isinstance(cause, ImportError | SyntaxError):
                raise JobFailed(f"Worker {worker} cannot import what it needs: {cause}") from cause
        dead = {worker: cause for worker, cause in causes.items() if isinstance(cause, RayActorError)}
        living = [worker for worker in range(len(group)) if worker not in dead]
        self._judge(
            Failure(
                lost=", ".join(f"worker {worker}: {type(cause).__name__}" for worker, cause in (dead or causes).items()),
                checkpoint=self._checkpoint(),
                steps=_steps_begun(group, living[0]) if living and dead else 0,
                is_machine=any(_NODE_DIED in str(cause) for cause in dead.values()),
            )
        )

    def lost_controller(self) -> None:
        """Says, in the driver, that all start again, or raises WorkersLost."""
        self._judge(Failure("Ray Train's controller, with all workers", self._checkpoint()))

    def _checkpoint(self) -> int:
        """Returns the number of the newest checkpoint, as far as the storage says."""
        try:
            return self._position()
        except StorageError:
            return self._failures[-1].checkpoint if self._failures else 0

    def _judge(self, failure: Failure) -> None:
        self._failures.append(failure)
        if reason := reason_to_end(self._failures, self._max_restarts):
            raise WorkersLost(f"{reason}. The run is {self._url}; the same command goes on from its newest checkpoint.")
        self._relay.put.remote(f"Lost workers ({failure.lost}). All start again from the last checkpoint.\n")


def _cause(error: Exception) -> Exception:
    """Returns what happened to a worker, without what Ray Train wraps around it."""
    error = getattr(error, "health_check_failure", error)
    return getattr(error, "_base_exc", error)


def _steps_begun(group: Any, worker: int) -> int:
    """Returns in which step a worker waits for one that died, once it does; 0 if it does not say."""
    counts = [-1, -2]
    with contextlib.suppress(Exception):  # it may die too
        while counts[-1] != counts[-2]:  # it may still be on its way there, and tells only when it is asked
            time.sleep(_AGAIN_SECONDS)  # long enough for a step to begin
            counts.append(ray.get(group.execute_single_async(worker, _count), timeout=_ANSWER_SECONDS))
        return counts[-1]
    return 0


def _count() -> int:
    return PULSE.begun
