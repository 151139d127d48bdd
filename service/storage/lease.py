"""One live driver owns a run."""

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

from service.errors import StorageError, Superseded
from service.storage import layout
from service.storage.store import Store


class Lease:
    """A driver's word that it is alive: a file that it rewrites again and again.

    Only politeness: it lets a second driver say who has the run, where the commit log
    would stop the first one. Two drivers that take a free lease in the same moment may
    both believe they have it, until the next renewal of one of them; the log still lets
    only one commit.

    A reader judges by its own clock alone: a lease that does not change while the reader
    watches for `ttl_seconds` belongs to a dead driver. Clocks of two machines are never
    compared.

    Args:
        store: the run's.
        owner: what others are told, as a JSON object; None tells the host, process and time.
        ttl_seconds: renew at least three times within it.
        clock: monotonic seconds.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        store: Store,
        owner: dict[str, Any] | None = None,
        *,
        ttl_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.store = store
        # A renewal that waits long for a storage that was away would come when others have given this driver up.
        self._hasty = store.hasty(ttl_seconds / 4)
        self.owner = owner or {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        self._ttl, self._clock, self._sleep = ttl_seconds, clock, sleep
        self._nonce = uuid.uuid4().hex
        self._renewals = 0

    def acquire(self, wait_seconds: float = 0.0) -> None:
        """Takes the lease, once it is free.

        Watching whether its owner is alive takes up to `ttl_seconds`.

        Args:
            wait_seconds: how long to wait for a live owner to let go.

        Raises:
            StorageError: naming the owner that is alive.
        """
        began = self._clock()
        while True:
            if (seen := self._read(self.store)) is None:
                if self.store.create(layout.LEASE, self._content()):
                    return
                continue
            held = self._watch(seen)
            if held == seen:
                self.store.write(layout.LEASE, self._content())
                return self._check_own(self.store)
            if held is not None and self._clock() - began >= wait_seconds:
                raise StorageError(f"The run {self.store.url} is being trained by {_owner_in(held)}. Stop that one first.")

    def renew(self) -> None:
        """Shows that this driver is alive.

        Raises:
            Superseded: naming the driver that has the lease now.
        """
        self._check_own(self._hasty)
        self._renewals += 1
        self._hasty.write(layout.LEASE, self._content())

    def release(self) -> None:
        """Lets go of the lease, if it is still this driver's. Where the storage fails, it runs out by itself."""
        with contextlib.suppress(StorageError):
            self._check_own(self._hasty)
            self._hasty.delete(layout.LEASE)

    def _watch(self, seen: bytes) -> bytes | None:
        """Returns the lease as soon as it changes (None once it is gone), or as it was for `ttl_seconds`."""
        began = self._clock()
        while self._clock() - began < self._ttl:
            self._sleep(self._ttl / 10)
            if (held := self._read(self.store)) != seen:
                return held
        return seen

    def _check_own(self, store: Store) -> None:
        if (held := self._read(store)) is None or self._nonce.encode() not in held:
            raise Superseded(f"The run {self.store.url} was taken over by {_owner_in(held)}. This driver must stop.")

    def _read(self, store: Store) -> bytes | None:
        try:
            return store.read(layout.LEASE)
        except FileNotFoundError:
            return None

    def _content(self) -> bytes:
        return json.dumps({"owner": self.owner, "nonce": self._nonce, "renewals": self._renewals}).encode()


def _owner_in(held: bytes | None) -> str:
    """Returns who holds a lease, as a sentence shows it."""
    try:
        owner = json.loads(held or b"")["owner"]
        return ", ".join(f"{key} {value}" for key, value in owner.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "another driver"
