"""What a run does at a step whose loss says that training has diverged."""

import collections
from collections.abc import Mapping
from typing import Any

from service.cluster.consensus import Council
from service.errors import Diverged, RolledBack
from service.policies import diverging
from service.run import Run
from service.storage import detours
from service.storage.commits import CommitLog
from service.training.saver import Saver


class Divergence:
    """Watches the loss of each step of a stage, and goes back where the run says so; it writes down that it did in any case.

    All workers see the same bits, so none needs to be asked. A run that may not go back trains on as
    Keras does, and the first divergence of each stage is written down.

    Attributes:
        recent: the losses of the last good steps, where they are wanted; part of the run's state.
        has_diverged: whether training has in this attempt, and goes on.
    """

    def __init__(self, run: Run, saver: Saver, council: Council, stage: int) -> None:
        self._run, self._saver, self._council, self._stage = run, saver, council, stage
        self.recent: collections.deque[float] = collections.deque(maxlen=diverging.WINDOW)
        self.has_diverged = False

    def judge(self, step: int, epoch: int, batch: int, loss: float | None) -> None:
        """Looks at the loss of a step that was just taken. Collective where it diverged: every worker calls this.

        Args:
            step: how many steps are complete with it.
            epoch, batch: its place, from 0.
            loss: of the global batch; None where nobody knows it.

        Raises:
            RolledBack: the next attempt goes on from an earlier checkpoint.
            Diverged: the run went back as often as it may.
        """
        if loss is None or self.has_diverged:
            return
        why = diverging.problem(loss, self.recent, self._run.spike)
        if not why:
            if self._run.spike is not None:
                self.recent.append(loss)
            return
        body = {"stage": self._stage, "epoch": epoch, "batch": batch, "step": step, "loss": loss, "why": why}
        what = f"Training diverged in epoch {epoch + 1}, batch {batch + 1} (step {step}): {why}."
        if self._run.rollbacks == 0:
            self.has_diverged = True
            self._write_down(body, what)
            return
        self._saver.wait()
        is_over, text = self._council.chief(None if self._saver.log is None else self._go_back(self._saver.log, body, what))
        raise (Diverged if is_over else RolledBack)(text)

    def _write_down(self, body: dict[str, Any], what: str) -> None:
        """Commits that training diverged and goes on, once for each stage; on the chief."""
        self._saver.wait()
        log = self._saver.log
        if log is None or not all(map(detours.went_back, detours.diverged(log, self._stage))):
            return
        good = detours.good(log, self._stage)
        log.append("diverged", {**body, "back_to": good[0].number if good else 0, "skipped": [], "is_over": False})
        print(f"{what} Training goes on; Run(rollbacks=...) lets it go back.", flush=True)

    def _go_back(self, log: CommitLog, body: dict[str, Any], what: str) -> tuple[bool, str]:
        """Commits where training goes on, or that it does not; returns whether the run is over, and why."""
        good = detours.good(log, self._stage)
        turns = detours.in_a_row(log, self._stage)
        number = diverging.back_to([(entry.number, entry.body["step"]) for entry in good], body["step"], len(turns))
        begin = next(({**entry.body, "number": number} for entry in good if entry.number == number), None)
        is_over = len(turns) >= self._run.rollbacks
        skipped: list[Any] = []
        if not is_over:
            first = [begin["epoch"], begin["batch"]] if begin else [0, 0]
            skipped = [first, list(detours.end_of_skip(log, self._stage, number, [body["epoch"], body["batch"]]))]
        self._saver.append("diverged", {**body, "back_to": number, "skipped": skipped, "is_over": is_over})
        if is_over:
            return True, f"{what} {self._tried([turn.body for turn in turns], log.store.url)}"
        text = f"{what} It goes back to {_place(begin)}, and leaves out {_range(*skipped)}."
        print(text, flush=True)
        return False, text

    def _tried(self, turns: list[Mapping[str, Any]], url: str) -> str:
        """Returns what was tried, and what can be done now."""
        tried = "; ".join(f"to {_number(turn['back_to'])} without {_range(*turn['skipped'])}" for turn in turns)
        times = "once" if len(turns) == 1 else f"{len(turns)} times"
        return (
            f"The run went back {times} without a new good checkpoint, which is what rollbacks={self._run.rollbacks} allows: "
            f"{tried}. Look at the data of these batches, or begin a run of another name with a lower learning rate or with "
            f"gradients clipped (clipnorm). The run is {url}; the same command goes on from its last good "
            "checkpoint, and may go back as often again."
        )


def _number(number: int) -> str:
    return f"checkpoint {number}" if number else "the beginning"


def _place(begin: Mapping[str, Any] | None) -> str:
    """Returns a checkpoint in words, or the beginning."""
    if begin is None:
        return "the beginning"
    return f"checkpoint {begin['number']} (step {begin['step']})"


def _range(first: detours.Place, last: detours.Place) -> str:
    """Returns the batches from one to another in words, counted from 1."""
    (epoch, batch), (last_epoch, last_batch) = first, last
    if epoch == last_epoch:
        return f"epoch {epoch + 1}'s batches {batch + 1} to {last_batch + 1}"
    return f"what is from epoch {epoch + 1}, batch {batch + 1} to epoch {last_epoch + 1}, batch {last_batch + 1}"
