"""What a worker leaves beside its training: its output, and its stacks where it is stuck."""

import os
import tempfile
import time
from typing import Any

from service.cluster.output import Output
from service.cluster.pulse import PULSE
from service.cluster.watch import Watch, board
from service.policies.stalling import StallPolicy
from service.storage import layout, retries, urls
from service.storage.store import Store
from service.storage.views import Views


class Kept:
    """Keeps a worker process's output in the run's folder, and watches whether it is stuck.

    In a folder the output grows in place; for any other storage it grows beside the process and
    is copied whole, at most every 30 seconds and at the end.
    """

    def __init__(self, store: Store, index: int, relay: Any, stall_seconds: float) -> None:
        began = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        name = layout.output(index, began)
        if urls.is_folder(store.url):
            self._views = None
            self.output = Output(os.path.join(urls.folder_of(store.url), name))
        else:
            views = self._views = Views(store)
            path = os.path.join(tempfile.mkdtemp(prefix="samestep-output-"), "output")
            self.output = Output(path, lambda: views.put(name, self._content))
        hasty = Store(store.url, retry=retries.Policy(deadline_seconds=10))
        keep = layout.stacks(began, index)
        Watch(PULSE, StallPolicy(stall_seconds), board(relay, index), lambda text: hasty.write(keep, text.encode())).start()

    def close(self) -> None:
        """Leaves the output whole."""
        self.output.drain()
        if self._views is not None:
            self._views.close()

    def _content(self) -> bytes:
        with open(self.output.path, "rb") as file:
            return file.read()
