"""A snapshot becomes shards and one committed entry, off the training thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn

from service.cluster.consensus import Council, Mailbox
from service.errors import Moved, RunInterrupted, WorkersDiffer
from service.policies.keeping import KeepPolicy, Mark
from service.storage import receipts, retention, shards
from service.storage.commits import Writer
from service.storage.store import Store
from service.training.state import Snapshot


class Saver:
    """Saves snapshots one at a time; each worker writes its share, the chief commits.

    All workers save the same snapshots in the same order. What a worker wrote it tells the
    chief through the mailbox, so that no thread but the training's ever calls a collective. It
    tells the checksums of all its tensors too: workers that drifted apart end the run. Behind
    its first commit goes what dead attempts left.
    """

    def __init__(
        self,
        store: Store,
        log: Writer | None,
        attempt: str,
        council: Council,
        keep: KeepPolicy,
        publish: Callable[[], None] = lambda: None,
    ) -> None:
        """`log` is the chief's; the other workers have none. `publish` shows what a checkpoint tells of, before its commit."""
        self._publish = publish
        self._store, self._log, self._attempt = store, log, attempt
        self._council, self._keep = council, keep
        self._mailbox = Mailbox()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._pending: Future[None] | None = None
        self._serial = 0
        self._previous: list[Any] = []
        self._has_swept = False

    def save(self, snapshot: Snapshot, body: dict[str, Any]) -> None:
        """Begins to save; first waits until the snapshot before is committed.

        Args:
            snapshot: the tensors, the same on every worker.
            body: what the checkpoint's entry says besides: stage, step, epoch, state; "final" is
                true for what a stage leaves, which is kept whatever comes after.
        """
        self.wait()
        self._serial += 1
        self._pending = self._thread.submit(self._save, self._serial, snapshot, body)

    def wait(self) -> None:
        """Waits until what was saved is committed; raises what went wrong with it."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def leave(self, place: str, is_end: bool) -> NoReturn:
        """Waits until what was saved is committed, on all workers, and ends the attempt.

        Collective: every worker calls this; a worker that ended at once would take the chief's commit with it.

        Args:
            place: where training is, for the message.
            is_end: whether this worker was asked that the run stops, and not only that others go on.

        Raises:
            RunInterrupted: a worker was asked that the run stops.
            Moved: other workers go on.
        """
        self.wait()
        if not self._council.any(is_end):
            raise Moved(f"Committed at {place}.")
        raise RunInterrupted(
            f"The run {self._store.url} was asked to stop. It is committed at {place}; the same command continues it "
            "from there."
        )

    def append(self, kind: str, body: dict[str, Any]) -> None:
        """Commits an entry that is no checkpoint, after what was saved before it; on the chief."""
        self.wait()
        if self._log is not None:
            self._log.append(kind, body)

    def _save(self, serial: int, snapshot: Snapshot, body: dict[str, Any]) -> None:
        share = snapshot.share(self._council.index, self._council.count)
        written = shards.write_shards(self._store, self._attempt, snapshot, share, self._previous)
        self._previous = written
        sums = snapshot.checksums() if self._council.count > 1 else {}
        if self._log is None:
            self._mailbox.post(f"saved/{serial}/{self._council.index}", [written, sums])
            if differences := self._mailbox.take(f"compared/{serial}/{self._council.index}"):
                raise WorkersDiffer(differences)
            return
        others = [self._mailbox.take(f"saved/{serial}/{worker}") for worker in range(1, self._council.count)]
        differences = _differences(body, [sums, *(theirs for _, theirs in others)])
        for worker in range(1, self._council.count):
            self._mailbox.post(f"compared/{serial}/{worker}", differences)
        if differences:
            raise WorkersDiffer(differences)
        self._publish()
        self._log.append("checkpoint", {**body, "shards": receipts.merge([written, *(theirs for theirs, _ in others)])})
        retention.delete(self._log, retention.surplus(self._log, self._keep.last, self._staying(self._log)))
        if not self._has_swept:  # once an attempt, behind its first commit: training does not wait for it
            retention.sweep(self._log)
            self._has_swept = True

    def _staying(self, log: Writer) -> set[int]:
        """Returns the checkpoints that stay: the policy's, each stage's last one, and what each stage left."""
        saved = log.checkpoints()
        newest: dict[tuple[int, bool], int] = {}
        for entry in saved:
            newest.setdefault((entry.body["stage"], bool(entry.body.get("final"))), entry.number)
        marks = [Mark(entry.number, entry.body["step"], entry.body.get("metrics", {})) for entry in saved]
        return self._keep.kept(marks) | set(newest.values())


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
