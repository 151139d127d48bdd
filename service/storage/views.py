"""Files written whole in a thread, the newest of each name."""

import threading
import time
from collections.abc import Callable

from service.errors import StorageError
from service.storage import urls
from service.storage.store import Store

# Between two rounds of writing to a bucket, where each write costs a request.
BUCKET_SECONDS = 30.0
# After a round in which something could not be written.
AGAIN_SECONDS = 1.0


class Views:
    """What a run shows of itself, and what its callbacks save: histories, event files, models.

    In a folder a file is written when it is put, elsewhere at most every 30 seconds, and what
    is left when it is asked for. A write that fails is said once and tried again with the next round.

    Args:
        store: where the files are.
        every_seconds: between two rounds; None chooses by the kind of storage.
        clock: monotonic seconds.
        say: shows a sentence to whoever runs this.
    """

    def __init__(
        self,
        store: Store,
        every_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda sentence: print(sentence, flush=True),
    ) -> None:
        self._store, self._clock, self._say = store, clock, say
        self._every = every_seconds if every_seconds is not None else (0.0 if urls.is_folder(store.url) else BUCKET_SECONDS)
        self._waiting: dict[str, Callable[[], None]] = {}
        self._changed = threading.Condition()
        self._is_closing = self._is_urgent = False
        self._failure: StorageError | None = None
        self._thread: threading.Thread | None = None

    def put(self, path: str, content: Callable[[], bytes]) -> None:
        """Has a file written soon; `content` is asked for the bytes then, in the writing thread."""
        self._put(path, lambda: self._store.write(path, content()))

    def _put(self, path: str, write: Callable[[], None]) -> None:
        with self._changed:
            self._waiting[path] = write
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_rounds, daemon=True, name="views")
                self._thread.start()
            self._changed.notify_all()

    def put_folder(self, path: str, files: dict[str, bytes]) -> None:
        """Has the files of a folder written soon; the last one of them is not there while the others change."""
        last = next(reversed(files))

        def write() -> None:
            self._store.delete(f"{path}/{last}")
            for name, content in files.items():
                self._store.write(f"{path}/{name}", content)

        self._put(path, write)

    def flush(self, timeout_seconds: float = 60.0) -> bool:
        """Has what waits written now, and waits for it as long as given; tells whether all of it is."""
        with self._changed:
            if self._thread is None:
                return True
            self._is_urgent = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._is_urgent, timeout_seconds) and not self._waiting

    def close(self) -> None:
        """Writes what is left, and waits for it.

        Raises:
            StorageError: naming the first file that could not be written.
        """
        with self._changed:
            thread, self._thread = self._thread, None
            self._is_closing = True
            self._changed.notify_all()
        if thread is not None:
            thread.join()
        self._is_closing = False
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write_rounds(self) -> None:
        due = -float("inf")
        while True:
            with self._changed:
                while not (self._is_closing or self._is_urgent or (self._waiting and self._clock() >= due)):
                    self._changed.wait(max(0.05, due - self._clock()) if self._waiting else None)
                taken, self._waiting = self._waiting, {}
                closing, urgent = self._is_closing, self._is_urgent
            written = [self._write(path, write) for path, write in taken.items()]
            due = self._clock() + (self._every if all(written) else max(self._every, AGAIN_SECONDS))
            with self._changed:
                self._is_urgent = self._is_urgent and not urgent
                self._changed.notify_all()
                if closing and not self._waiting:
                    return

    def _write(self, path: str, write: Callable[[], None]) -> bool:
        try:
            write()
            self._failure = None
            return True
        except StorageError as error:
            if self._failure is None:
                self._say(f"Not written yet: {error} It is tried again.")
            self._failure = error
            with self._changed:
                if not self._is_closing:
                    self._waiting.setdefault(path, write)
            return False
