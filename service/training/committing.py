"""One save beside the training: each worker writes its share, the chief commits, all hear."""

import traceback
from collections.abc import Callable
from typing import Any

from service import errors
from service.cluster.consensus import Council, Mailbox
from service.errors import Corrupt, ServiceError, StorageError, Superseded, WorkersDiffer
from service.policies.keeping import KeepPolicy, Mark
from service.storage import detours, layout, receipts, retention, shards
from service.storage.commits import Writer
from service.storage.store import Store
from service.training.state import Snapshot


class Committer:
    """Saves one snapshot after the other, in a thread of each worker.

    All workers save the same snapshots in the same order. What a worker wrote, or why it could
    not, it tells the chief through the mailbox, and hears what became of it, so that no thread but
    the training's ever calls a collective and none waits for a worker whose storage failed. It
    tells the checksums of all its tensors too: workers that drifted apart end the run.

    Attributes:
        written_bytes: what all workers wrote for the last checkpoint; on the chief.
    """

    def __init__(
        self, store: Store, log: Writer | None, attempt: str, council: Council, keep: KeepPolicy, publish: Callable[[], None]
    ) -> None:
        """`log` is the chief's; the other workers have none. `publish` shows what a checkpoint tells of, before its commit."""
        self._store, self._log, self._attempt = store, log, attempt
        self._index, self._count = council.index, council.count
        self._keep, self._publish = keep, publish
        self._mailbox = Mailbox()
        self._serial = self.written_bytes = 0
        self._previous: list[Any] = []
        self._loose: set[str] = set()
        self._is_untidy = True  # behind the first commit goes what dead attempts left

    def save(self, snapshot: Snapshot, body: dict[str, Any]) -> str:
        """Returns why the storage would not have the checkpoint, or nothing once it is committed: the same on all workers.

        Raises:
            ServiceError: what ends the run: the workers differ, the attempt was superseded, or what is no matter of storage.
        """
        self._serial += 1
        report = self._write(snapshot)
        if self._log is None:
            self._mailbox.post(f"saved/{self._serial}/{self._index}", report)
            verdict = self._mailbox.take(f"verdict/{self._serial}/{self._index}")
        else:
            others = [self._mailbox.take(f"saved/{self._serial}/{worker}") for worker in range(1, self._count)]
            verdict = self._commit(self._log, body, [report, *others])
            for worker in range(1, self._count):
                self._mailbox.post(f"verdict/{self._serial}/{worker}", verdict)
        # What is there after a failure is not known: a bucket may have been made anew. The next one is written whole.
        self._previous = [] if verdict else report["written"]
        if not verdict:
            return ""
        error = _error(*verdict)
        if not _is_of_the_storage(error):
            raise error
        return str(error)

    def _write(self, snapshot: Snapshot) -> dict[str, Any]:
        """Writes this worker's share; returns what it tells the chief."""
        try:
            share = snapshot.share(self._index, self._count)
            written = shards.write_shards(self._store, self._attempt, snapshot, share, self._previous)
            sums = snapshot.checksums() if self._count > 1 else {}
            # All workers hold the same, so the chief's word is enough.
            is_finite = self._log is not None and snapshot.is_finite()
            return {"written": written, "sums": sums, "finite": is_finite, "error": []}
        except Exception as error:
            return {"written": [], "sums": {}, "error": _told(error)}

    def _commit(self, log: Writer, body: dict[str, Any], reports: list[dict[str, Any]]) -> list[str]:
        """Commits what all workers wrote, on the chief; returns the error that kept it from that, or nothing."""
        fresh = {r["file"] for report in reports for r in report["written"] if layout.attempt_of(r["file"]) == self._attempt}
        if failed := {worker: report["error"] for worker, report in enumerate(reports) if report["error"]}:
            self._discard(log, fresh)
            return _of_workers(failed)
        try:
            if differences := _differences(body, [report["sums"] for report in reports]):
                raise WorkersDiffer(differences)
            self._publish()
            written = receipts.merge([report["written"] for report in reports])
            log.append("checkpoint", {**body, "finite": reports[0]["finite"], "shards": written})
            self.written_bytes = sum(r["size"] for report in reports for r in report["written"] if r["file"] in fresh)
        except Exception as error:
            self._loose |= fresh  # the entry may be in the log; the next append finds out
            return _told(error)
        try:
            self._tidy(log)
        except Exception as error:
            self._is_untidy = True
            return [] if _is_of_the_storage(error) else _told(error)
        return []

    def _discard(self, log: Writer, files: set[str]) -> None:
        """Removes the files of a save that came to nothing, now or later."""
        try:
            retention.discard(log, files)
        except StorageError:
            self._loose |= files

    def _tidy(self, log: Writer) -> None:
        """Removes what the policy keeps no longer, and what is left of saves and deletions that came to nothing."""
        retention.delete(log, retention.surplus(log, 1, self._staying(log)))
        if self._is_untidy:
            retention.sweep(log)
            self._is_untidy = False
        if self._loose:
            retention.discard(log, self._loose)
            self._loose = set()

    def _staying(self, log: Writer) -> set[int]:
        """Returns the checkpoints that stay: the policy's, each stage's last one, and what each stage left.

        The policy chooses among those that training can go back to, so that none which holds NaN takes a good one's place.
        """
        saved = detours.counting(log)
        newest: dict[tuple[int, bool, bool], int] = {}
        for entry in saved:
            key = (entry.body["stage"], bool(entry.body.get("final")), detours.is_finite(entry))
            newest.setdefault(key, entry.number)
        good = [entry for entry in saved if detours.is_finite(entry)]
        marks = [Mark(entry.number, entry.body["step"], entry.body.get("metrics", {})) for entry in good]
        before = {entry.body["back_to"] for entry in detours.diverged(log) if not detours.went_back(entry)}
        return self._keep.kept(marks) | set(newest.values()) | before


def _is_of_the_storage(error: BaseException) -> bool:
    """Whether training can go on and the same be tried again later."""
    return isinstance(error, StorageError) and not isinstance(error, Superseded | Corrupt)


def _told(error: Exception) -> list[str]:
    """Returns an error as the other workers are told it."""
    if isinstance(error, ServiceError):
        return [type(error).__name__, str(error)]
    return [ServiceError.__name__, "".join(traceback.format_exception(error))]


def _error(kind: str, text: str) -> ServiceError:
    """Returns the error that was told."""
    return getattr(errors, kind)(text)


def _of_workers(failed: dict[int, list[str]]) -> list[str]:
    """Returns one error for those of several workers: the first that ends the run, else the first."""
    worst = min(failed, key=lambda worker: (_is_of_the_storage(_error(*failed[worker])), worker))
    kind, text = failed[worst]
    if not _is_of_the_storage(_error(kind, text)):
        return [kind, text]
    return [kind, f"Worker{'s' * (len(failed) > 1)} {', '.join(map(str, failed))}: {text}"]


def _differences(body: dict[str, Any], sums: list[dict[str, int]]) -> str:
    """Returns which tensors of which workers are not the chief's, as a message; nothing if all are."""
    apart = {name: [w for w, theirs in enumerate(sums) if theirs.get(name) != value] for name, value in sums[0].items()}
    found = [f"{name} (workers {', '.join(map(str, workers))})" for name, workers in apart.items() if workers]
    if not found:
        return ""
    return (
        f"After step {body['step']} the workers hold other values than the chief, worker 0: {'; '.join(found[:20])}. "
        "Something set them on one worker alone, such as a callback or the job between two steps: do it on every worker."
    )
