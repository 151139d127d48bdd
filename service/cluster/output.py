"""What a worker process prints, kept in a file of the run."""

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

COPY_SECONDS = 0.5


class Output:
    """Sends this process's standard output and error, those of its libraries too, into a file that outlives it.

    What arrives there is copied on to where it went before, Ray's own logs. The file is
    written without a buffer: of a process that is killed it has all there was. What a full disk
    does not take is lost, and ends nothing.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called, in a thread, when there is more in the file."""
        self.path, self._changed = path, changed
        os.makedirs(os.path.dirname(path), exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        self._before = os.dup(1)
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.close(file)
        for name, stream in (("stdout", 1), ("stderr", 2)):
            if _descriptor(getattr(sys, name)) == stream:
                file_of = io.BufferedWriter(_Lasting(stream, "wb", closefd=False))
                setattr(sys, name, io.TextIOWrapper(file_of, "utf-8", "backslashreplace", line_buffering=True))
        self._copied = os.path.getsize(path)
        self._lock = threading.Lock()
        threading.Thread(target=self._copy, name="output", daemon=True).start()

    def write(self, text: str) -> None:
        """Adds text that does not pass through this process's standard output."""
        with contextlib.suppress(OSError):
            os.write(1, text.encode())

    def drain(self) -> None:
        """Copies on what there is."""
        with contextlib.suppress(OSError), self._lock, open(self.path, "rb") as file:
            file.seek(self._copied)
            if new := file.read():
                self._copied += len(new)
                os.write(self._before, new)
                self._changed()

    def _copy(self) -> None:
        while True:
            time.sleep(COPY_SECONDS)  # a file that grows tells nobody
            self.drain()


class _Lasting(io.FileIO):
    """A file of which what cannot be written is lost."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return len(data)


def _descriptor(stream: Any) -> int | None:
    """Returns the number of the file that a stream writes to, if it is one."""
    with contextlib.suppress(OSError, AttributeError):
        return stream.fileno()
    return None
