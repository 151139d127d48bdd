"""Files written whole in a thread, the newest of each name."""

import threading
import time
from collections.abc import Callable

from service.errors import StorageAway, StorageError
from service.storage import urls
from service.storage.store import Store

# Between two rounds of writing to a bucket, where each write costs a request.
BUCKET_SECONDS = 30.0
# After a round in which something could not be written, the next one comes after four times as long, within these.
AGAIN_SECONDS = (1.0, 10.0)


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
        self._taken: dict[str, Callable[[], None]] = {}  # of the round that is being written
        self._changed = threading.Condition()
        self._is_closing = self._is_urgent = False
        self._failures: dict[str, StorageError] = {}
        self._grown: dict[str, int] = {}  # bytes that are there already
        self._thread: threading.Thread | None = None

    def put(self, path: str, content: Callable[[], bytes]) -> None:
        """Has a file written soon; `content` is asked for the bytes then, in the writing thread."""
        self._put(path, lambda: self._store.write(path, content()))

    def put_grown(self, path: str, read: Callable[[int], bytes]) -> None:
        """Has written soon what was added to a file that only grows; `read` gives its bytes from a place on."""
        if not urls.is_folder(self._store.url):
            self.put(path, lambda: read(0))
            return

        def write() -> None:
            begin = self._grown.get(path, 0) if self._store.exists(path) else 0
            new = read(begin)
            self._store.append(path, begin, new)
            self._grown[path] = begin + len(new)

        self._put(path, write)

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

    def unwritten(self) -> list[str]:
        """Returns the files that are not as they were put last."""
        with self._changed:
            return sorted({*self._waiting, *self._taken, *self._failures})

    def close(self) -> None:
        """Writes what is left, and waits for it. Of a storage that does not answer, one file is tried.

        Raises:
            StorageError: naming the files that could not be written, and why the first could not.
        """
        with self._changed:
            thread, self._thread = self._thread, None
            self._is_closing = True
            self._changed.notify_all()
        if thread is not None:
            thread.join()
        self._is_closing = False
        if self._failures:
            failures, self._failures = self._failures, {}
            first = failures[min(failures)]
            raise type(first)(f"Not written: {', '.join(sorted(failures))}. {first}")

    def _write_rounds(self) -> None:
        due = -float("inf")
        while True:
            with self._changed:
                while not (self._is_closing or self._is_urgent or (self._waiting and self._clock() >= due)):
                    self._changed.wait(max(0.05, due - self._clock()) if self._waiting else None)
                taken, self._waiting = self._waiting, {}
                self._taken = taken
                closing, urgent = self._is_closing, self._is_urgent
            began = self._clock()
            failure = away = None
            for path, write in taken.items():
                # Of a storage that does not answer one file a round is tried: each try takes as long as its retries.
                failure = self._put_off(path, write, away) if away else self._write(path, write) or failure
                away = failure if isinstance(failure, StorageAway) else None
            least, most = AGAIN_SECONDS
            again = min(max(least, 4 * (self._clock() - began)), most) if failure else 0.0
            due = self._clock() + max(self._every, again)
            with self._changed:
                self._taken = {}
                self._is_urgent = self._is_urgent and not urgent
                self._changed.notify_all()
                if closing and not self._waiting:
                    return

    def _write(self, path: str, write: Callable[[], None]) -> StorageError | None:
        """Returns why a file could not be written, if so."""
        try:
            write()
            self._failures.pop(path, None)
            return None
        except StorageError as error:
            return self._put_off(path, write, error)
        except Exception as error:  # of what makes the content; the other files are still to be written
            return self._put_off(path, write, StorageError(f'Could not write "{path}": {type(error).__name__}: {error}'))

    def _put_off(self, path: str, write: Callable[[], None], error: StorageError) -> StorageError:
        """Has a file tried again with the next round, where there is one."""
        if not self._failures:
            self._say(f"Not written yet: {error} It is tried again.")
        self._failures[path] = error
        with self._changed:
            if not self._is_closing:
                self._waiting.setdefault(path, write)
        return error
