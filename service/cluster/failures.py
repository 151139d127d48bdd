"""Which failures of workers end a run at once, and which start them again."""

from typing import Any

from ray.train import UserCallback

from service.errors import JobFailed, ServiceError


class StopAtErrors(UserCallback):
    """Runs in Ray Train's controller: an error of the job or its data is raised there, which ends the run.

    Anything else, such as a process that died or a collective that lost its peer, is left to
    Ray Train, which starts all workers again as often as max_restarts allows.
    """

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises the first worker's error that starting again would only repeat."""
        causes = {worker: getattr(error, "_base_exc", error) for worker, error in sorted(worker_exceptions.items())}
        for worker, cause in causes.items():
            if isinstance(cause, ServiceError):
                raise cause
            if isinstance(cause, ImportError | SyntaxError):
                raise JobFailed(f"Worker {worker} cannot import what it needs: {cause}") from cause
        lost = ", ".join(f"worker {worker}: {type(cause).__name__}" for worker, cause in causes.items())
        self._relay.put.remote(f"Lost workers ({lost}). All start again from the last checkpoint.\n")
