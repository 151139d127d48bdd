"""One numbered log per run: what counts as saved, opened, deleted, finished."""

import dataclasses
import hashlib
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from service.errors import Corrupt, StorageError, Superseded
from service.storage import entries, layout, receipts
from service.storage.entries import Entry
from service.storage.store import Store

_READERS = 8  # entries read at once: in a bucket each costs one round trip
_BATCH = 64  # entries read before it is asked which older ones were deleted
_MOST_MISSING = 1000  # numbers asked for that no listing has: a stray file far ahead must not cost a day


@dataclasses.dataclass(frozen=True)
class _Found:
    """What lies at a number: the entry or else what is wrong, and the SHA-256 of the bytes."""

    entry: Entry | None
    sha256: str = ""
    problem: str = ""


class CommitLog:
    """The entries commits/00000001.json, 00000002.json, ... of a run, as read.

    An entry is created once and never changed. Each holds the SHA-256 of the one before,
    so that an entry which was put in another's place does not fit its neighbours.

    All that is told is as of the last `refresh`.

    Args:
        store: the run's.
        known: a number that is known to be taken, should a listing lag behind.

    Attributes:
        store: the run's.
        damaged: what is wrong with each entry that cannot be believed, by number. Such
            entries are skipped and kept.
    """

    def __init__(self, store: Store, known: int = 0) -> None:
        self.store, self._known = store, known
        self.damaged: dict[int, str] = {}
        self._found: dict[int, _Found] = {}
        self._believed: dict[int, Entry] = {}

    @classmethod
    def open(cls, store: Store, attempt: str | None = None, about: dict[str, Any] | None = None) -> "Writer":
        """Takes the run over for a new attempt, whose writer it returns.

        Every older attempt's next append collides with what is appended here.

        Args:
            store: the run's.
            attempt: letters and digits that no attempt of this run had; None draws some.
            about: what the entry says of the attempt, a JSON object.
        """
        writer = Writer(store, attempt or uuid.uuid4().hex[:12])
        writer._take_over(about or {})
        return writer

    def refresh(self) -> None:
        """Reads the entries that are new since the last time, and again those that were damaged.

        Newest first, so that what a deletion names is not read at all: however long a run
        is, what is read and kept of its past is small.
        """
        sizes = self.store.sizes(layout.COMMITS)
        listed = {number: size for path, size in sizes.items() if (number := layout.number_of(path))}
        tried: set[int] = set()
        while wanted := sorted(self._unread(listed) - tried)[-_BATCH:]:
            with ThreadPoolExecutor(_READERS) as readers:
                found = [*readers.map(lambda number: self._read(number, listed.get(number)), wanted)]
            self._found.update(zip(wanted, found, strict=True))
            self._judge()
            tried.update(wanted)

    def entries(self) -> list[Entry]:
        """Returns the believed entries, oldest first, without the checkpoints that were deleted."""
        believed = self._believed
        return [believed[number] for number in sorted(believed)]

    def checkpoints(self, stage: int | None = None) -> list[Entry]:
        """Returns the checkpoints that were not deleted, newest first: of one stage, or all."""
        saved = [entry for entry in reversed(self.entries()) if entry.kind == "checkpoint"]
        return [entry for entry in saved if stage is None or entry.body["stage"] == stage]

    def deleted(self) -> set[int]:
        """Returns the numbers that a deletion names."""
        return {number for entry in self.entries() if entry.kind == "deleted" for number in entry.body["numbers"]}

    def results(self) -> dict[int, dict[str, Any]]:
        """Returns the result of each finished stage."""
        return {entry.body["stage"]: entry.body["result"] for entry in self.entries() if entry.kind == "stage"}

    def _unread(self, listed: Iterable[int]) -> set[int]:
        """Returns the numbers that may count and are not known to be whole."""
        whole = {number for number, found in self._found.items() if found.entry}
        settled = whole | self.deleted()
        # A listing may lag behind: what it lacks below the newest entry is asked for by name.
        missing = (number for number in range(max(whole | {self._known}), 0, -1) if number not in settled)
        return {*listed, *self._found, *itertools.islice(missing, _MOST_MISSING)} - settled

    def _read(self, number: int, size: int | None = None) -> _Found:
        path = layout.commit(number)
        try:
            if (size := self.store.size(path) if size is None else size) > entries.MOST_BYTES:
                return _Found(None, problem=f"Entry {path} has {size} bytes, which no entry has.")
            data = self.store.read(path)
        except FileNotFoundError:
            return _Found(None, problem=f"Entry {path} is missing.")
        except Corrupt as error:
            return _Found(None, problem=str(error))
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            return _Found(entries.decode(number, data), sha256)
        except Corrupt as error:
            return _Found(None, sha256, str(error))

    def _judge(self) -> None:
        """Decides which entries to believe: those that are whole and fit their neighbours.

        Where two do not fit, the later one is believed if a believed entry is linked to it,
        or if the earlier one does not fit what is before it either; else the earlier one is.
        """
        damaged: dict[int, str] = {}
        believed: dict[int, Entry] = {}
        links: dict[int, str] = {}  # what a believed entry says of the bytes of the one before
        for number in sorted(self._found, reverse=True):
            found, link = self._found[number], links.get(number)
            if (entry := found.entry) is None:
                damaged[number] = found.problem
            elif link == found.sha256 or (not link and (self._fits(number) or not self._fits(number - 1))):
                believed[number], links[number - 1] = entry, entry.previous
            else:
                damaged[number] = f"Entry {layout.commit(number)} does not fit its neighbours: it was put there later."
        gone = {number for entry in believed.values() if entry.kind == "deleted" for number in entry.body["numbers"]}
        self._found = {number: found for number, found in self._found.items() if number not in gone}
        # Whole new mappings: another thread may be going through the old ones.
        self.damaged = {number: problem for number, problem in damaged.items() if number not in gone}
        self._believed = {number: entry for number, entry in believed.items() if number not in gone}

    def _fits(self, number: int) -> bool:
        """Whether an entry is linked to the one before, as far as both can be read."""
        found, below = self._found[number], self._found.get(number - 1)
        if not (found.entry and found.entry.previous and below and below.entry):
            return True
        return found.entry.previous == below.sha256


class Writer(CommitLog):
    """The commit log in the hands of the attempt that owns the run; made by CommitLog.open.

    Only one process holds a writer. Several of its threads may.

    Attributes:
        attempt: the attempt's name.
        last: the number of the last entry that this writer appended or found taken.
    """

    def __init__(self, store: Store, attempt: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__(store)
        self.attempt = attempt
        self.last = 0
        self._nonce = uuid.uuid4().hex
        self._clock = clock
        self._lock = threading.RLock()
        self._opened = layout.LAST_NUMBER
        self._lost = ""

    def refresh(self) -> None:
        with self._lock:
            super().refresh()
            # Not what a stray file far ahead makes the newest number: two attempts must
            # always meet at the same next one.
            self.last = self.last or max(self._believed, default=0)

    def append(self, kind: str, body: dict[str, Any]) -> Entry:
        """Commits an entry and returns it.

        An error that is not Superseded leaves open whether the entry is in the log; the
        next append finds out, so a caller may go on and append again.

        Raises:
            Superseded: a newer attempt has the run. This writer appends nothing any more.
            StorageError: the storage failed, or a checkpoint names a file that a deletion
                named: save it again without `previous`.
        """
        with self._lock:
            self._check_owner()
            while True:
                if kind == "checkpoint":
                    self._check_files(body)
                if (entry := self._create(kind, body)) is not None:
                    return entry
                self._find_next()
                self._check_owner()

    def _take_over(self, about: dict[str, Any]) -> None:
        if not layout.ATTEMPT.fullmatch(self.attempt):
            raise ValueError(f'attempt="{self.attempt}": expected 1 to 40 letters and digits, for it is part of file names.')
        self.refresh()
        while True:
            if any(entry.attempt == self.attempt for entry in self.entries()):
                raise StorageError(f'The run {self.store.url} had an attempt "{self.attempt}" already. Give a new name.')
            if (entry := self._create("opened", about)) is not None:
                self._opened = entry.number
                return
            self._find_next()

    def _create(self, kind: str, body: dict[str, Any]) -> Entry | None:
        """Returns the entry made at the next number, or None where that is taken."""
        number = self.last + 1
        if number > layout.LAST_NUMBER:
            raise StorageError(f"{self.store.url_of(layout.commit(self.last))} is the last number that a run's log has.")
        previous = self._found[self.last].sha256 if self.last in self._believed else ""
        data = entries.encode(Entry(number, kind, self.attempt, self._nonce, float(self._clock()), previous, body))
        if not self.store.create(layout.commit(number), data):
            return None
        entry = entries.decode(number, data)
        self._add(number, _Found(entry, hashlib.sha256(data).hexdigest()))
        return entry

    def _find_next(self) -> None:
        """Reads what is at the next number, which was taken."""
        self._add(self.last + 1, self._read(self.last + 1))

    def _add(self, number: int, found: _Found) -> None:
        self._found[number], self.last = found, number
        self._judge()

    def _check_owner(self) -> None:
        """Raises Superseded, now and ever after, once another writer's entry follows this one's first."""
        others = [found.entry for found in self._found.values() if found.entry and found.entry.nonce != self._nonce]
        if newer := [entry for entry in others if entry.number > self._opened]:
            self._lost = self._lost or (
                f'Attempt "{self.attempt}" of the run {self.store.url} was superseded: attempt "{newer[0].attempt}" '
                f"wrote {layout.commit(newer[0].number)}. This one must stop; nothing that was committed is lost."
            )
        if self._lost:
            raise Superseded(self._lost)

    def _check_files(self, body: dict[str, Any]) -> None:
        named = {file for entry in self.entries() if entry.kind == "deleted" for file in entry.body["files"]}
        if gone := named & receipts.files(body["shards"]):
            raise StorageError(f"The checkpoint refers to {min(gone)}, which was deleted. Save it again without `previous`.")
