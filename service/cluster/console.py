"""What the chief prints, on the driver's terminal."""

import io
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import ray

FLUSH_SECONDS = 0.1


class Console:
    """The driver's end: prints what arrives, in a thread, until the block ends, and the relay with it."""

    def __init__(self, relay: Any) -> None:
        self._relay = relay
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._print, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *error: Any) -> None:
        """Prints what is still there, then stops."""
        self._closing.set()
        self._thread.join(timeout=10)
        try:
            self._show(ray.get(self._relay.take.remote(0), timeout=5))
        except Exception:  # the cluster is gone, and with it what was not fetched
            return
        ray.kill(self._relay)

    def _print(self) -> None:
        while not self._closing.is_set():
            try:
                self._show(ray.get(self._relay.take.remote(0.5)))
            except Exception:  # the cluster is gone: the run's own error tells of it
                return

    def _show(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class RemoteOutput(io.TextIOBase):
    """The chief's sys.stdout: what is printed there appears at the driver, a terminal if that is one."""

    def __init__(self, relay: Any, is_terminal: bool, also: Callable[[str], None] = lambda text: None) -> None:
        """`also` is given the text too."""
        self._relay, self._is_terminal, self._also = relay, is_terminal, also
        self._text: list[str] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._send, daemon=True).start()

    def isatty(self) -> bool:
        """Whether the driver's output is a terminal."""
        return self._is_terminal

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Takes text, to be sent within a tenth of a second."""
        with self._lock:
            self._text.append(text)
        return len(text)

    def drain(self) -> None:
        """Sends what is left, and waits until it is there."""
        if (sent := self._flush()) is not None:
            ray.get(sent, timeout=10)

    def _send(self) -> None:
        while True:
            time.sleep(FLUSH_SECONDS)  # what is printed meanwhile goes in one message
            self._flush()

    def _flush(self) -> Any:
        """Sends the text there is; under the lock, so that no later text overtakes it."""
        with self._lock:
            text, self._text = "".join(self._text), []
            if text:
                self._also(text)
            return self._relay.put.remote(text) if text else None
