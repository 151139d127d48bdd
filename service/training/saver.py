"""Snapshots are saved off the training thread, or put off while the storage fails."""

import concurrent.futures
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np

from service.cluster.consensus import Council
from service.cluster.metrics import Gauges
from service.errors import Moved, RunInterrupted, StorageError
from service.policies.keeping import KeepPolicy
from service.storage.commits import Writer
from service.storage.store import Store
from service.training.committing import Committer
from service.training.state import Snapshot

# How old a save may be, in seconds, at which the next one still waits for it; then training goes on without.
PATIENCE_SECONDS = 10.0
# A checkpoint that the storage would not have is made up for after four times as long as that took, within these.
AGAIN_SECONDS = (1.0, 10.0)
_REASON_BYTES = 600


class Saver:
    """Saves snapshots one at a time, and outlives a storage that fails.

    A checkpoint that is due while the one before is still being tried, or that failed, is left
    out: training goes on, the chief says so once, and one is made up for when saving works again.
    What a stage ends with is waited for; where it cannot be committed, an error says what is lost.

    Attributes:
        log: the run's, on the chief; it is whole after `wait`.
        committed: the step of the stage's newest committed checkpoint, as far as this worker heard.
    """

    def __init__(
        self,
        store: Store,
        log: Writer | None,
        attempt: str,
        council: Council,
        keep: KeepPolicy,
        publish: Callable[[], None] = lambda: None,
        unwritten: Callable[[], list[str]] = lambda: [],
        gauges: Gauges | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            log: the chief's; the other workers have none.
            publish: shows what a checkpoint tells of, before its commit.
            unwritten: names the run's other files that could not be written, for a message.
            gauges: hears, on the chief, of each commit.
        """
        self._store, self.log, self._council, self._clock = store, log, council, clock
        self._unwritten, self._gauges = unwritten, gauges
        self._committer = Committer(store, log, attempt, council, keep, publish)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._pending: Future[None] | None = None
        self.committed = 0
        self._begun = 0.0
        self._step = 0  # of the save that began last
        self._problem = ""  # why that one failed
        self._is_owed = self._is_alarmed = self._has_told_slow = False
        self._not_before = 0.0

    def save(self, snapshot: Snapshot, body: dict[str, Any], in_full: bool = False) -> None:
        """Begins to save, once the snapshot before is committed; leaves this one out while that one cannot be.

        Collective: every worker calls this.

        Args:
            snapshot: the tensors, the same on every worker.
            body: what the checkpoint's entry says besides: stage, step, epoch, state; "final" is
                true for what a stage leaves, which is kept whatever comes after.
            in_full: waits for the snapshot before however long that takes.
        """
        if self._are_all_free(body["step"], in_full):
            self._is_owed, self._problem = False, ""
            self._begun, self._step = self._clock(), body["step"]
            self._pending = self._thread.submit(self._save, snapshot, body)
        else:
            self._is_owed = True

    def wants(self) -> bool:
        """Whether a checkpoint that was left out or failed should be made up for now; on the chief."""
        if not self._is_owed or self._clock() < self._not_before:
            return False
        return self._pending is None or self._pending.done()

    def wait(self) -> None:
        """Waits until what was saved is committed or has failed; raises what must end the run."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def agree(self, answer: bool) -> bool:
        """Returns whether any worker says yes. Collective: every worker calls this."""
        return self._council.any(answer)

    def settle(self) -> None:
        """Waits until the last snapshot is committed.

        Raises:
            StorageError: it could not be, on all workers alike; what was not saved is named.
        """
        self._wait_in_full()
        if self._is_owed:
            self._give_up()

    def leave(self, place: str, is_end: bool) -> NoReturn:
        """Waits until what was saved is committed, on all workers, and ends the attempt.

        Collective: every worker calls this; a worker that ended at once would take the chief's commit with it.

        Args:
            place: where training is, for the message.
            is_end: whether this worker was asked that the run stops, and not only that others go on.

        Raises:
            RunInterrupted: a worker was asked that the run stops.
            StorageError: the run stops, and this place could not be committed; what was not saved is named.
            Moved: other workers go on, from the newest checkpoint there is.
        """
        self._wait_in_full()
        if not self._council.any(is_end):
            raise Moved(f"Committed at {f'step {self.committed} only' if self._is_owed else place}.")
        self.settle()
        raise RunInterrupted(
            f"The run {self._store.url} was asked to stop. It is committed at {place}; the same command continues it "
            "from there."
        )

    def append(self, kind: str, body: dict[str, Any]) -> None:
        """Commits an entry that is no checkpoint, after what was saved before it; on the chief."""
        self.wait()
        if self.log is not None:
            self.log.append(kind, body)

    def _are_all_free(self, step: int, in_full: bool) -> bool:
        """Whether no worker is saving any more; waits for that in full, or until the save is as old as it may be."""
        if in_full:
            self._wait_in_full()
            return True
        is_busy = not self._is_done_in(self._begun + PATIENCE_SECONDS - self._clock())
        if not is_busy:
            self.wait()
            is_busy = self.log is not None and self._clock() < self._not_before
        busy = np.flatnonzero(self._council.gather(np.array([int(is_busy)])))
        if not busy.size or self._problem:
            return not busy.size
        reasons = self._council.texts(self._store.trouble, _REASON_BYTES)
        if reason := next((f"Worker {worker}: {text}" for worker, text in enumerate(reasons) if text), ""):
            self._alarm(reason)
        else:
            self._tell_slow(f"worker {', '.join(map(str, busy))}", f"that of step {step} is left out and made up for")
        return False

    def _wait_in_full(self) -> None:
        if not self._is_done_in(PATIENCE_SECONDS):
            if trouble := self._store.trouble:
                self._alarm(trouble)
            else:
                self._tell_slow("a worker", "training waits for it")
        self.wait()

    def _is_done_in(self, seconds: float) -> bool:
        if self._pending is not None:
            concurrent.futures.wait([self._pending], max(seconds, 0.0))
        return self._pending is None or self._pending.done()

    def _save(self, snapshot: Snapshot, body: dict[str, Any]) -> None:
        """Saves, in the thread."""
        self._problem = self._committer.save(snapshot, body)
        if not self._problem:
            self.committed = body["step"]
            if self._gauges is not None and self.log is not None:
                self._gauges.committed(self.committed, self._clock() - self._begun, self._committer.written_bytes)
            if self._is_alarmed:
                self._is_alarmed = False
                self._say(f"Saving works again: step {self.committed} is committed.")
            return
        self._is_owed = True
        took, (least, most) = self._clock() - self._begun, AGAIN_SECONDS
        self._not_before = self._clock() + min(max(least, 4 * took), most)
        self._alarm(self._problem)

    def _alarm(self, reason: str) -> None:
        """Says once, on the chief, that saving has begun to fail."""
        if not self._is_alarmed:
            self._is_alarmed = True
            self._say(
                f"Saving fails, and is tried again: {reason}\nTraining goes on. The newest committed step is {self.committed}; "
                "what comes after it would be lost with the workers."
            )

    def _tell_slow(self, who: str, consequence: str) -> None:
        if not self._has_told_slow:
            self._has_told_slow = True
            self._say(
                f"The checkpoint of step {self._step} is still being written after {PATIENCE_SECONDS:g} s ({who}); "
                f"{consequence}. The newest committed step is {self.committed}."
            )

    def _say(self, sentence: str) -> None:
        if self.log is not None:
            print(sentence, flush=True)

    def _give_up(self) -> NoReturn:
        done, last, views = self.committed, self._step, ", ".join(self._unwritten())
        lost = f"the steps after {done} of {last} are not saved" if last > done else "what the stage leaves is not saved"
        raise StorageError(
            f"The storage failed, so {lost}: {self._problem}\n"
            + (f"Not written either: {views}.\n" if views else "")
            + f"The newest committed step of {self._store.url} is {done}. Once the storage is mended, the same command goes on "
            "from there."
        )
