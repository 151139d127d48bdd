"""Bytes at a URL: read, write, create once, list, delete, with retries."""

import dataclasses
import os
import threading
import uuid
from collections.abc import Callable
from typing import Any

from service import secrecy
from service.errors import Corrupt, StorageAway, StorageError
from service.storage import layout, places, retries, urls
from service.storage.places import Buffer

_LISTED_SECONDS = 10.0  # how long a listing may lack a new file where a run begins

_VERBS = {"read_range": "read", "size": "find", "sizes": "list", "append": "write to"}  # of messages


class Store:
    """The files under one URL, by relative paths such as "commits/00000042.json".

    A Store holds no file open and remembers no listing. It can be pickled, used from
    several threads, and used on both sides of a fork: each process connects anew.

    Args:
        url: a folder's path (made absolute) or a URL that fsspec opens.
        retry: how calls are tried again.
        connect: opens the place at a URL; tests pass one that fails on purpose.
        storage_options: fsspec's own, such as a project or an endpoint.

    Raises:
        RunInvalid: when no installed package can open the URL.
    """

    def __init__(
        self,
        url: str,
        *,
        retry: retries.Policy | None = None,
        connect: Callable[[str, dict[str, Any]], places.Place] = places.connect,
        **storage_options: Any,
    ) -> None:
        self.url = urls.normal(url)
        urls.check_readable(url)
        self._retry = retry or retries.Policy()
        self._connect = connect
        self._options = storage_options
        self._place: places.Place | None = None
        self._process = 0
        self._troubles: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"Store({self.url!r})"  # the options may hold a secret

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_place": None, "_troubles": {}}

    def hasty(self, deadline_seconds: float) -> "Store":
        """Returns the same store, whose calls are tried again for so long only."""
        other = Store.__new__(type(self))
        other.__dict__.update(self.__getstate__())
        other._retry = dataclasses.replace(self._retry, deadline_seconds=deadline_seconds)
        return other

    @property
    def trouble(self) -> str:
        """What is wrong with a call that is being tried again at this moment, in any thread; or nothing."""
        return next(iter([*self._troubles.values()]), "")

    def url_of(self, path: str) -> str:
        """Returns the full URL of a file."""
        return f"{self.url}/{urls.check_path(path)}"

    def read(self, path: str) -> bytes:
        """Returns a file's bytes, or raises FileNotFoundError."""
        return self._call("read", urls.check_path(path))

    def read_range(self, path: str, begin: int, end: int) -> bytes:
        """Returns the bytes [begin, end) of a file that has them all."""
        data = self._call("read_range", urls.check_path(path), begin, end) if begin < end else b""
        if len(data) != end - begin:
            raise StorageError(f"{self.url_of(path)} gave {len(data)} bytes of the {end - begin} from {begin} to {end}.")
        return data

    def write(self, path: str, *parts: Buffer) -> None:
        """Replaces a file whole, by the parts' bytes one behind the other: a reader sees the old bytes or the new ones."""
        self._put("write", path, *parts)

    def append(self, path: str, begin: int, data: bytes) -> None:
        """Adds bytes behind the first `begin` ones of a file in a folder; what a try that failed added there goes."""
        self._put("append", path, begin, data)

    def create(self, path: str, data: bytes) -> bool:
        """Makes a file that must not exist yet, whole or not at all.

        Of all callers with one path, in all processes and machines, exactly one hears
        True. When the reply to our own success is lost, the second try finds the file:
        it holds our bytes, so they must be nobody else's (put a nonce in).
        """
        try:
            self._put("create", path, data)
        except FileExistsError:
            try:  # what is there may be of any size, or no file at all
                return self.size(path) == len(data) and self.read(path) == data
            except (FileNotFoundError, Corrupt):
                return False
        return True

    def exists(self, path: str) -> bool:
        """Whether there is a file of this name."""
        try:
            self._call("size", urls.check_path(path))
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        """Returns a file's size in bytes, or raises FileNotFoundError."""
        return self._call("size", urls.check_path(path))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Returns each file under a folder (or all there are) with its size in bytes."""
        try:
            return dict(sorted(self._call("sizes", folder and urls.check_path(folder)).items()))
        except FileNotFoundError:
            return {}

    def list(self, folder: str = "") -> list[str]:
        """Returns the sorted paths of the files under a folder, or of all there are."""
        return [*self.sizes(folder)]

    def delete(self, path: str) -> None:
        """Removes a file; one that is missing is as it should be."""
        try:
            self._call("delete", urls.check_path(path))
        except FileNotFoundError:
            return

    def remove_leftovers(self, older_than_seconds: float = 86400.0) -> None:
        """Removes what writes left in a folder when their process died long ago."""
        self._call("remove_leftovers", older_than_seconds)

    def check(self) -> None:
        """Proves with one small file that a run can be kept here.

        Raises:
            StorageError: when the place cannot be written, or lets two writers create one
                file, as some that speak S3's protocol do.
        """
        path = f"{layout.SHARDS}/check-{uuid.uuid4().hex}"
        try:
            if not self.create(path, b"first") or self.create(path, b"second") or self.read(path) != b"first":
                raise StorageError(f"{self.url} lets two writers create the same file, so it cannot hold a run's commit log.")
            self.hasty(_LISTED_SECONDS)._retry.call(lambda: self._check_listed(path))
        except TimeoutError as error:
            raise StorageError(f"{self.url} does not list a file that was just written.") from error
        finally:
            self.delete(path)

    def _check_listed(self, path: str) -> None:
        if path not in self.list(layout.SHARDS):
            raise TimeoutError(path)

    def _put(self, action: str, path: str, *args: Any) -> None:
        """Makes a file or a part of one; a place that is not there is no missing file."""
        try:
            self._call(action, urls.check_path(path), *args)
        except FileNotFoundError as error:
            raise StorageError(
                f'Could not {action} "{path}" in {self.url}, which is not there: {error}. Create the bucket first.'
            ) from error

    def _call(self, action: str, *args: Any) -> Any:
        """Makes one call of the place, tried again after transient errors.

        Raises:
            FileNotFoundError, FileExistsError: as the place raises them.
            StorageAway: errors that pass by themselves did not until the deadline.
            StorageError: for everything else, naming the file and the cause.
        """
        me = threading.get_ident()

        def text(error: BaseException | None) -> str:
            cause = " ".join(f"{type(error).__name__}: {error}".split())  # a server's page becomes one line
            return f'Could not {_VERBS.get(action, action)} "{args[0]}" in {self.url}: {self._shown(cause)}'

        def tell(error: BaseException | None) -> None:
            self._troubles[me] = text(error)

        try:
            return self._retry.call(lambda: getattr(self._here(), action)(*args), tell)
        except (FileNotFoundError, FileExistsError, StorageError):
            raise
        except Exception as error:
            kind = StorageAway if retries.is_transient(error) else StorageError
            # A traceback shows causes.
            raise kind(text(error)) from (error if self._shown(str(error)) == str(error) else None)
        finally:
            self._troubles.pop(me, None)

    def _shown(self, text: str) -> str:
        return secrecy.redacted(text, secrecy.known_in(self._options) | secrecy.of_environment())

    def _here(self) -> places.Place:
        if self._place is None or self._process != os.getpid():
            self._place, self._process = self._connect(self.url, self._options), os.getpid()
        return self._place
