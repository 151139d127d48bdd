"""The event files of one stage, with one writer, which follow the run's checkpoints."""

import functools
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from service.storage.store import Store
from service.storage.views import Views

KINDS = ("train", "validation", "")
_EVENTS = "events.out.tfevents."
_FLUSH_MILLISECONDS = 5_000  # what is written shows after at most this long, and with the next event


class Events:
    """What TensorBoard reads, under one folder's train/ and validation/; what is of neither lies in the folder itself.

    The files grow beside the process, where a storage that fails cannot reach the training, and are
    copied off the training thread: what is new to a folder, whole to any other storage. A checkpoint
    holds the sizes of the files; a run that goes on from it cuts them there, so that no event is
    missing or there twice.

    Args:
        store: what the folder is in.
        folder: its path in the store; "" for the store itself.
        views: what copies files into the store.
    """

    def __init__(self, store: Store, folder: str, views: Views) -> None:
        self._store, self._folder, self._views = store, folder, views
        self._scratch = tempfile.TemporaryDirectory(prefix="samestep-logs-")
        self.root = pathlib.Path(self._scratch.name, folder)
        self._writers: dict[str, Any] = {}
        self._earlier: dict[str, int] = {}

    def writer(self, kind: str) -> Any:
        """Returns the writer of "train", "validation" or "", made when it is first wanted."""
        if kind not in self._writers:
            self._writers[kind] = tf.summary.create_file_writer(str(self.root / kind), flush_millis=_FLUSH_MILLISECONDS)
        return self._writers[kind]

    def scalars(self, kind: str, values: Mapping[str, float], step: int) -> None:
        """Writes numbers by their tags."""
        with self.writer(kind).as_default(), tf.summary.record_if(True):
            for tag, value in values.items():
                tf.summary.scalar(tag, value, step=step)

    def write(self, kind: str, act: Callable[..., None], *args: Any) -> None:
        """Has `act(*args)` write whatever it likes with tf.summary."""
        with self.writer(kind).as_default(), tf.summary.record_if(True):
            act(*args)

    def sizes(self) -> dict[str, int]:
        """Returns the sizes of the event files by their paths under the folder, with all that was written until now."""
        self._flush()
        return self._earlier | {path: (self.root / path).stat().st_size for path in self._own_files()}

    def cut(self, sizes: Mapping[str, int]) -> None:
        """Cuts earlier attempts' files at these sizes and removes those that are not named; before anything is written."""
        self._earlier = {}
        for path, size in self._files_there().items():
            if path in sizes:
                self._earlier[path] = min(size, sizes[path])
                if size > sizes[path]:
                    self._store.write(self._inside(path), self._store.read_range(self._inside(path), 0, sizes[path]))
            else:
                self._store.delete(self._inside(path))

    def mirror(self) -> None:
        """Has what was written copied soon."""
        for path in self._own_files():
            put = self._views.put_grown if _EVENTS in path else self._views.put
            put(self._inside(path), functools.partial(self._content, path))

    def put(self, path: str, content: bytes) -> None:
        """Has a file beside the event files written soon."""
        self._views.put(self._inside(path), lambda: content)

    def publish(self) -> None:
        """Has everything shown that was written until now."""
        self._flush()
        self.mirror()

    def _content(self, path: str, begin: int = 0) -> bytes:
        self._flush()
        with open(self.root / path, "rb") as file:
            file.seek(begin)
            return file.read()

    def _flush(self) -> None:
        for writer in list(self._writers.values()):
            writer.flush()

    def _own_files(self) -> list[str]:
        """Returns the files that this process made."""
        found = [path for path in self.root.rglob("*") if path.is_file()] if self.root.exists() else []
        return [path.relative_to(self.root).as_posix() for path in found]

    def _files_there(self) -> dict[str, int]:
        """Returns the event files of earlier attempts with their sizes."""
        prefix = f"{self._folder}/" if self._folder else ""
        there = {path.removeprefix(prefix): size for path, size in self._store.sizes(self._folder).items()}
        return {path: size for path, size in there.items() if _EVENTS in path and _kind(path) in KINDS}

    def _inside(self, path: str) -> str:
        return f"{self._folder}/{path}" if self._folder else path


def _kind(path: str) -> str:
    return path.rpartition("/")[0]
