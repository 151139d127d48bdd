"""Where the callbacks of one fit write, and which worker does."""

import os
import posixpath
from collections.abc import Callable, Mapping
from typing import Any

from service.errors import RunInvalid, StorageError
from service.storage import layout, urls
from service.storage.store import Store
from service.storage.views import Views

_LAST_SECONDS = 5.0


class Setting:
    """What a fit tells those of its callbacks that write: one has a method `join(setting)`.

    Attributes:
        url: the folder in which a relative path lies: the run's, or this process's working folder.
        is_chief: whether this worker writes.
        run: the run's own files; None without a run.
        stage: which of the run's stages this is, from 1.
        facts: what is known of the run by name, plain values, to tell runs apart.
        workers: how many there are.
        is_resuming: whether the callbacks' state is put back once they have begun.
        validation: gives the flat rows of the validation data's inputs, or None, where a callback looks at them.
    """

    def __init__(
        self,
        is_chief: bool = True,
        run: Store | None = None,
        stage: int = 1,
        facts: Mapping[str, Any] | None = None,
        workers: int = 1,
    ) -> None:
        self.is_chief, self.run, self.stage, self.facts = is_chief, run, stage, dict(facts or {})
        self.workers = workers
        self.url = run.url if run is not None else os.getcwd()
        self.is_resuming = False
        self.validation: Callable[[], Any] = lambda: None
        self._views: dict[str, Views] = {}
        self._publishing: list[Callable[[], None]] = []
        self._closing: list[Callable[[], None]] = []

    def say(self, sentence: str) -> None:
        """Shows a sentence, once for all workers."""
        if self.is_chief:
            print(sentence, flush=True)

    def place_of(self, path: str, what: str) -> tuple[str, str]:
        """Returns the folder's URL and the path in it of a file or URL that an author named.

        Args:
            path: relative to `url`, absolute, or a URL.
            what: what asks, for a message.

        Raises:
            RunInvalid: the path is one that the run itself writes, or leaves the run's folder.
        """
        if "://" in path or os.path.isabs(os.path.expanduser(path)):
            folder, _, name = urls.normal(path).rpartition("/")
            return folder, name
        inside = posixpath.normpath(path)
        if inside.startswith(".."):
            raise RunInvalid(f'{what}: "{path}" leaves {self.url}. Give a path inside it, an absolute one, or a URL.')
        if self.run is not None and layout.is_the_run_s(inside):
            raise RunInvalid(
                f'{what}: "{path}" is a file that the run itself writes into {self.url}. Give another name, such as '
                f'"best-{posixpath.basename(inside)}".'
            )
        return self.url, inside

    def views(self, folder: str) -> Views:
        """Returns what writes files in a folder, off the training thread."""
        if folder not in self._views:
            store = self.run if self.run is not None and self.run.url == folder else Store(folder)
            self._views[folder] = Views(store)
        return self._views[folder]

    def read(self, folder: str, name: str) -> bytes:
        """Returns a file's bytes; nothing where there is none."""
        try:
            return (self.run if self.run is not None and self.run.url == folder else Store(folder)).read(name)
        except FileNotFoundError:
            return b""

    def before_publishing(self, action: Callable[[], None]) -> None:
        """Has something done each time before a checkpoint is committed, in the thread that commits."""
        self._publishing.append(action)

    def before_closing(self, action: Callable[[], None]) -> None:
        """Has something done in the end, whether training came to its own or was left."""
        self._closing.append(action)

    def publish(self) -> None:
        """Has written what the callbacks put until now, so that what a checkpoint tells of is there; at least tries."""
        for action in self._publishing:
            action()
        for views in self._views.values():
            views.flush()

    def unwritten(self) -> list[str]:
        """Tries once more to write what is left, for a few seconds; returns the files that are not written."""
        for views in self._views.values():
            views.flush(_LAST_SECONDS)
        return [name for views in self._views.values() for name in views.unwritten()]

    def close(self) -> None:
        """Writes what is left.

        Raises:
            StorageError: naming all that could not be written.
        """
        for action in self._closing:
            action()
        problems = []
        for views in self._views.values():
            try:
                views.close()
            except StorageError as error:
                problems.append(str(error))
        if problems:
            raise StorageError(" ".join(problems))
