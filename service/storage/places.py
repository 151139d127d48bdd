"""What a folder, a bucket and a process's memory each do in their own way."""

import contextlib
import errno
import os
import stat
import threading
import time
import types
import uuid
from typing import Any, BinaryIO, Protocol

import fsspec

from service.errors import Corrupt, StorageError
from service.storage import retries, urls

Buffer = bytes | memoryview

_TEMPORARY = ".samestep-"
_MEMORY = threading.RLock()


class Place(Protocol):
    """The calls a Store makes, each tried once. A missing file is a FileNotFoundError."""

    def read(self, path: str) -> bytes: ...

    def read_range(self, path: str, begin: int, end: int) -> bytes: ...

    def write(self, path: str, *parts: Buffer) -> None:
        """Replaces the file whole, by the parts' bytes one behind the other."""

    def append(self, path: str, begin: int, data: bytes) -> None:
        """Puts bytes behind the file's first ones; what was there goes."""

    def create(self, path: str, data: bytes) -> None:
        """Makes the file whole, or raises FileExistsError."""

    def delete(self, path: str) -> None: ...

    def size(self, path: str) -> int: ...

    def sizes(self, folder: str) -> dict[str, int]:
        """Returns every file under the folder with its size, asked anew."""

    def remove_leftovers(self, older_than_seconds: float) -> None: ...


class Folder:
    """A folder of a local or shared file system.

    No link inside it is followed, and nothing but a plain file is read: what is put there
    leads nowhere else, and holds no reader up.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, path: str) -> bytes:
        with self._open(path) as file:
            return file.read()

    def read_range(self, path: str, begin: int, end: int) -> bytes:
        with self._open(path) as file:
            file.seek(begin)
            return file.read(end - begin)

    def write(self, path: str, *parts: Buffer) -> None:
        target = self._at(path)
        with self._temporary(target, *parts) as temporary:
            os.replace(temporary, target)

    def append(self, path: str, begin: int, data: bytes) -> None:
        target = self._at(path)
        _make_folder(os.path.dirname(target))
        with open(target, "ab", buffering=0, opener=_through_no_link) as file:
            file.truncate(begin)
            try:
                # A full disk takes a part of it, and says so with the next one.
                while data := data[file.write(data) :]:
                    continue
                os.fsync(file.fileno())
            except OSError:
                file.truncate(begin)
                raise

    def create(self, path: str, data: bytes) -> None:
        target = self._at(path)
        with self._temporary(target, data) as temporary:
            try:
                # A hard link appears with its whole content and fails on an existing name,
                # in one step, on NFS too. A rename would replace the winner's file, and
                # opening with O_EXCL would let a crash leave half of one.
                os.link(temporary, target)
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise StorageError(
                        f"{self.root} is on a file system without hard links, so it cannot hold a run's commit log. "
                        "Use another folder; for a mounted bucket, use its URL (gs://..., s3://...)."
                    ) from error
                raise

    def delete(self, path: str) -> None:
        os.remove(self._at(path))
        _sync_folder(os.path.dirname(self._at(path)))

    def size(self, path: str) -> int:
        try:
            about = os.lstat(self._at(path))
        except NotADirectoryError as error:
            raise FileNotFoundError(path) from error
        if not stat.S_ISREG(about.st_mode):
            raise _not_plain(path, about)
        return about.st_size

    def sizes(self, folder: str) -> dict[str, int]:
        found = {}
        for path in self._walk(folder):
            if not os.path.basename(path).startswith(_TEMPORARY):
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    found[path] = os.lstat(self._at(path)).st_size
        return found

    def remove_leftovers(self, older_than_seconds: float) -> None:
        for path in self._walk(""):
            if os.path.basename(path).startswith(_TEMPORARY):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - os.lstat(self._at(path)).st_mtime > older_than_seconds:
                        os.remove(self._at(path))

    def _at(self, path: str) -> str:
        """Returns where a file is; raises Corrupt where a folder on the way is a link."""
        place = self.root
        for name in path.split("/")[:-1]:
            place = os.path.join(place, name)
            if os.path.islink(place):
                raise Corrupt(f"{place} is a link, and a run's folder holds none. Put in its place what it leads to.")
        return os.path.join(self.root, path)

    def _open(self, path: str) -> BinaryIO:
        self.size(path)  # a pipe would wait for whoever writes into it
        return open(self._at(path), "rb")

    def _walk(self, folder: str) -> list[str]:
        steps = os.walk(self._at(f"{folder}/") if folder else self.root)
        return [os.path.relpath(os.path.join(step, name), self.root) for step, _, names in steps for name in names]

    @contextlib.contextmanager
    def _temporary(self, target: str, *parts: Buffer) -> Any:
        """Yields a file beside the target that holds the data; what became of it is made durable."""
        folder = os.path.dirname(target)
        _make_folder(folder)
        temporary = os.path.join(folder, f"{_TEMPORARY}{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(FileNotFoundError):  # it was moved to the target
                os.remove(temporary)
        _sync_folder(folder)


class Bucket:
    """Anything else that fsspec opens, without mkdir and rename."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.scheme = urls.scheme_of(url)
        self._files, root = fsspec.core.url_to_fs(url, **{**_defaults(self.scheme), **options})
        _try_once(self._files)
        self._root = root.rstrip("/")
        # memory:// looks whether a file exists and then makes it (fsspec 2026.9, memory.py).
        self._lock: Any = _MEMORY if self.scheme == "memory" else contextlib.nullcontext()

    def read(self, path: str) -> bytes:
        with self._lock:
            return bytes(self._files.cat_file(self._at(path)))

    def read_range(self, path: str, begin: int, end: int) -> bytes:
        with self._lock:
            return bytes(self._files.cat_file(self._at(path), start=begin, end=end))

    def write(self, path: str, *parts: Buffer) -> None:
        with self._lock:
            self._files.pipe_file(self._at(path), b"".join(parts))

    def append(self, path: str, begin: int, data: bytes) -> None:
        raise StorageError(f"{self.scheme}:// cannot add to a file.")

    def create(self, path: str, data: bytes) -> None:
        if self.scheme not in urls.CREATES_ONCE:
            raise StorageError(f"{self.scheme}:// cannot create a file that exactly one of many writers wins.")
        try:
            with self._lock:
                # In one request whatever the size: gcsfs names the condition only when an upload
                # in chunks begins, and fake-gcs-server has forgotten it when the upload ends.
                self._files.pipe_file(self._at(path), data, mode="create", chunksize=len(data) + 1)
        except OSError as error:
            # s3fs makes FileExistsError only of AWS's own wording of a failed condition.
            if retries.status_of(error) == 412:
                raise FileExistsError(path) from error
            raise

    def delete(self, path: str) -> None:
        with self._lock:
            self._files.rm_file(self._at(path))

    def size(self, path: str) -> int:
        with self._lock:
            entry = self._files.info(self._at(path))
        if entry["type"] != "file":
            raise FileNotFoundError(path)
        return entry["size"]

    def sizes(self, folder: str) -> dict[str, int]:
        start = self._at(folder) if folder else self._root
        with self._lock:
            found = self._files.find(start, detail=True)
        # A console's "new folder" is an empty object whose name ends with a slash.
        files = {name: entry for name, entry in found.items() if entry["type"] == "file" and name.startswith(f"{start}/")}
        return {name[len(self._root) + 1 :]: entry["size"] for name, entry in files.items() if not name.endswith("/")}

    def remove_leftovers(self, older_than_seconds: float) -> None:
        """An interrupted upload is never an object; the bucket's own lifecycle ends it."""

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"


def connect(url: str, options: dict[str, Any]) -> Place:
    """Opens the place that a URL names."""
    return Folder(urls.folder_of(url)) if urls.is_folder(url) else Bucket(url, options)


def _defaults(scheme: str) -> dict[str, Any]:
    """Options without which a client would remember old listings, hang, or miss a torn upload."""
    if scheme in ("gs", "gcs"):
        import aiohttp  # comes with gcsfs

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        return {"use_listings_cache": False, "consistency": "md5", "requests_timeout": timeout}
    if scheme in ("s3", "s3a"):
        return {"use_listings_cache": False, "config_kwargs": _s3_config(scheme)}
    return {"use_listings_cache": False}


def _through_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def _not_plain(path: str, about: os.stat_result) -> OSError:
    """Returns what to raise for a name that is a folder (no file, then), a link, a pipe or a device."""
    if stat.S_ISDIR(about.st_mode):
        return FileNotFoundError(path)
    kind = "a link, and a run's folder holds none" if stat.S_ISLNK(about.st_mode) else "no plain file"
    return Corrupt(f"{path} is {kind}.")


def _s3_config(scheme: str) -> dict[str, Any]:
    """Returns botocore's settings, which try a call once; what a user's own say of that holds."""
    return {"retries": {"total_max_attempts": 1}, **fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})}


def _try_once(files: Any) -> None:
    """Has gcsfs and s3fs try each call once: the Store tries again, with one deadline over all of it.

    Their own retries, six with gcsfs, cannot be chosen by an option (gcsfs 2026.9, core.py:614), multiply with
    the Store's, and print a traceback each time.
    """
    request = getattr(type(files), "_request", None)
    if (once := getattr(request, "__wrapped__", None)) is not None:
        files._request = types.MethodType(once, files)
    if hasattr(type(files), "retries"):
        files.retries = 1


def _sync_folder(folder: str) -> None:
    """Makes a name in a folder survive a power cut, as fsync does for a file's content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: str) -> None:
    """Makes a folder and those above it, each to survive a power cut."""
    if not os.path.isdir(folder):
        _make_folder(os.path.dirname(folder))
        try:
            os.makedirs(folder, exist_ok=True)
        except FileExistsError as error:
            raise StorageError(f"{folder} is there, and is no folder. Put it away, or use another folder.") from error
        _sync_folder(os.path.dirname(folder))
