"""Files that can be made again, written in a thread, the newest of each name."""

import threading
import time
from collections.abc import Callable

from service.errors import StorageError
from service.storage import urls
from service.storage.store import Store

# Between two rounds of writing to a bucket, where each write costs a request.
BUCKET_SECONDS = 30.0


class Views:
    """What a run shows of itself: histories, event files. Losing one loses nothing.

    In a folder a file is written when it is put, elsewhere at most every 30 seconds, and what
    is left at the end. A write that fails is tried again with the next round.

    Args:
        store: the run's.
        every_seconds: between two rounds; None chooses by the kind of storage.
        clock: monotonic seconds.
    """

    def __init__(self, store: Store, every_seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._every = every_seconds if every_seconds is not None else (0.0 if urls.is_folder(store.url) else BUCKET_SECONDS)
        self._waiting: dict[str, Callable[[], bytes]] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self._failure: StorageError | None = None
        self._thread: threading.Thread | None = None

    def put(self, path: str, content: Callable[[], bytes]) -> None:
        """Has a file written soon; `content` is asked for the bytes then, in the writing thread."""
        with self._changed:
            self._waiting[path] = content
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_rounds, daemon=True, name="views")
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Writes what is left, and waits for it.

        Raises:
            StorageError: naming the first file that could not be written.
        """
        with self._changed:
            thread, self._thread = self._thread, None
            self._is_closing = True
            self._changed.notify()
        if thread is not None:
            thread.join()
        self._is_closing = False
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write_rounds(self) -> None:
        last = -float("inf")
        while True:
            with self._changed:
                while not self._is_closing and not (self._waiting and self._clock() - last >= self._every):
                    self._changed.wait(max(0.05, self._every - (self._clock() - last)) if self._waiting else None)
                taken, self._waiting = self._waiting, {}
                closing = self._is_closing
            for path, content in taken.items():
                self._write(path, content)
            last = self._clock()
            if closing and not self._waiting:
                return

    def _write(self, path: str, content: Callable[[], bytes]) -> None:
        try:
            self._store.write(path, content())
            self._failure = None
        except StorageError as error:
            self._failure = error
            with self._changed:
                if not self._is_closing:
                    self._waiting.setdefault(path, content)
