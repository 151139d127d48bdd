"""What a worker leaves beside its training: its output, and its stacks where it is stuck."""

import os
import tempfile
import time
from typing import Any

from service.cluster.output import Output
from service.cluster.pulse import PULSE
from service.cluster.watch import Watch, board
from service.errors import StorageError
from service.policies.stalling import StallPolicy
from service.storage import layout, urls
from service.storage.store import Store
from service.storage.views import Views

HASTY_SECONDS = 10.0  # how long a storage that is away is waited for, before the next round


class Kept:
    """Keeps a worker process's output in the run's folder, and watches whether it is stuck.

    In a folder the output grows in place; for any other storage it grows beside the process and
    is copied whole, at most every 30 seconds and at the end.
    """

    def __init__(self, store: Store, index: int, relay: Any, stall_seconds: float) -> None:
        self._index, self._is_closed = index, False
        began = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        name = self._name = layout.output(index, began)
        if urls.is_folder(store.url):
            self._views: Views | None = None
            self.output = Output(os.path.join(urls.folder_of(store.url), name))
        else:
            self._views = Views(store.hasty(HASTY_SECONDS))
            path = os.path.join(tempfile.mkdtemp(prefix="samestep-output-"), "output")
            self.output = Output(path, self._copy)
        hasty = store.hasty(HASTY_SECONDS)
        keep = layout.stacks(began, index)
        Watch(PULSE, StallPolicy(stall_seconds), board(relay, index), lambda text: hasty.write(keep, text.encode())).start()

    def close(self) -> None:
        """Leaves the output whole; a storage that fails costs it, not the run."""
        self.output.drain()
        self._is_closed = True
        if self._views is not None:
            try:
                self._views.close()
            except StorageError as error:
                print(f"What worker {self._index} printed last is not kept. {error}", flush=True)

    def _copy(self) -> None:
        """Has copied what there is; what comes after the end is only at the driver."""
        if self._views is not None and not self._is_closed:
            self._views.put(self._name, self._content)

    def _content(self) -> bytes:
        with open(self.output.path, "rb") as file:
            return file.read()
