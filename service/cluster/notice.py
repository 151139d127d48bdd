"""A signal to the driver, or to a worker, becomes the workers' wish to commit and leave."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

# A pod's usual grace is 30 s. What has not committed by then waits for more than a step.
PATIENCE_SECONDS = 25.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Notice:
    """Whether the workers were asked to commit and leave; one for each attempt, on each worker."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._move = threading.Event()

    def give(self) -> None:
        """Asks that the run stops, from any thread."""
        self._end.set()

    def give_move(self) -> None:
        """Asks that the workers make way for those of another attempt, from any thread."""
        self._move.set()

    def is_given(self) -> bool:
        """Whether somebody asked this worker for one or the other; the others may not know yet."""
        return self._end.is_set() or self._move.is_set()

    def is_end(self) -> bool:
        """Whether this worker was asked that the run stops."""
        return self._end.is_set()

    def listen(self, relay: Any) -> None:
        """Waits beside the training for what the driver or Ray Train's controller asks."""

        def ask() -> None:
            import ray

            (self.give if ray.get(relay.asked.remote()) == "leave" else self.give_move)()

        self.after(ask)

    def after(self, wait: Callable[[], Any]) -> None:
        """Runs, in a thread, what waits for somebody to ask."""

        def run() -> None:
            with contextlib.suppress(Exception):  # who would ask ends with the run
                wait()

        threading.Thread(target=run, name="notice", daemon=True).start()


@contextlib.contextmanager
def time_limit(seconds: float | None, ask: Callable[[], Any]) -> Iterator[None]:
    """Calls `ask`, in a thread, if the block takes as long as that; None is no limit."""
    timer = threading.Timer(seconds or 0, ask)
    timer.daemon = True
    if seconds is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def signals(ask: Callable[[], None]) -> Iterator["Signals"]:
    """Calls `ask`, in a thread, at the first SIGINT or SIGTERM that reaches this process inside the block.

    The second one, or `PATIENCE_SECONDS`, ends the block with a KeyboardInterrupt. Python lets
    only the main thread handle signals; in another one nothing changes.
    """
    heard = Signals(ask)
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heard.install()
    try:
        yield heard
    finally:
        heard.timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


class Signals:
    """What SIGINT and SIGTERM do while a run is on.

    Attributes:
        insist: called at the second signal.
        timer: stands for a second signal when the first one led to nothing.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._is_asked = False
        self.insist: Callable[..., Any] = signal.default_int_handler
        main = threading.main_thread().ident
        self.timer = threading.Timer(PATIENCE_SECONDS, signal.pthread_kill, [main, signal.SIGINT])
        self.timer.daemon = True

    def install(self) -> None:
        """Handles both signals from now on, on the main thread."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if self._is_asked:
            self.insist(number, frame)
            return
        self._is_asked = True
        sys.stderr.write("\nThe workers commit a checkpoint and stop. A second signal stops them at once.\n")
        # In a thread: the main one may be anywhere, inside Ray too.
        threading.Thread(target=self._ask, daemon=True).start()
        self.timer.start()
