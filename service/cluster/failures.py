"""Which failures of workers end a run at once, and which start them again."""

from collections.abc import Callable
from typing import Any

from ray.train import UserCallback

from service.errors import JobFailed, ServiceError, WorkersLost


class StopAtErrors(UserCallback):
    """Runs in Ray Train's controller: an error of the job or its data is raised there, which ends the run.

    After anything else, such as a process that died or a collective that lost its peer, Ray Train
    starts all workers again, until that has led to no new checkpoint for more than max_restarts times.
    A run of weeks so outlives any number of lost machines.

    Args:
        relay: takes what is said to the driver.
        position: tells the number of the newest checkpoint.
        max_restarts: how often workers are started again without a new one.
        url: the run's folder, for a message.
    """

    def __init__(self, relay: Any, position: Callable[[], int], max_restarts: int, url: str) -> None:
        self._relay, self._position, self._max_restarts, self._url = relay, position, max_restarts, url
        self._last, self._restarts = -1, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises the first worker's error that starting again would only repeat."""
        causes = {worker: getattr(error, "_base_exc", error) for worker, error in sorted(worker_exceptions.items())}
        for worker, cause in causes.items():
            if isinstance(cause, ServiceError):
                raise cause
            if isinstance(cause, ImportError | SyntaxError):
                raise JobFailed(f"Worker {worker} cannot import what it needs: {cause}") from cause
        lost = ", ".join(f"worker {worker}: {type(cause).__name__}" for worker, cause in causes.items())
        position = self._position()
        self._restarts = self._restarts + 1 if position == self._last else 1
        self._last = position
        if self._restarts > self._max_restarts:
            raise WorkersLost(
                f"Workers were lost ({lost}). Since the newest checkpoint of {self._url} they were started again "
                f"{self._max_restarts} times, which is what max_restarts={self._max_restarts} allows. The same command goes on "
                "from that checkpoint."
            )
        self._relay.put.remote(f"Lost workers ({lost}). All start again from the last checkpoint.\n")
