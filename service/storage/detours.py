"""Which checkpoints a run left behind when it went back, and which batches it leaves out."""

from collections.abc import Sequence

from service.storage.commits import CommitLog
from service.storage.entries import Entry

Place = Sequence[int]  # epoch and batch, both from 0


def diverged(log: CommitLog, stage: int | None = None) -> list[Entry]:
    """Returns what the log tells of training that diverged, oldest first: in one stage, or all."""
    return [e for e in log.entries() if e.kind == "diverged" and stage in (None, e.body["stage"])]


def went_back(entry: Entry) -> bool:
    """Whether a run went back where it diverged, and did not only write it down."""
    return bool(entry.body["skipped"])


def left_behind(log: CommitLog) -> set[int]:
    """Returns the checkpoints that do not count, because the run went back to an earlier one."""
    turns = [turn for turn in diverged(log) if went_back(turn)]
    return {
        entry.number
        for entry in log.checkpoints()
        for turn in turns
        if entry.body["stage"] == turn.body["stage"] and turn.body["back_to"] < entry.number < turn.number
    }


def counting(log: CommitLog, stage: int | None = None) -> list[Entry]:
    """Returns the checkpoints that count, newest first: of one stage, or all."""
    left = left_behind(log)
    return [entry for entry in log.checkpoints(stage) if entry.number not in left]


def is_finite(checkpoint: Entry) -> bool:
    """Whether all weights and all of the optimizer's numbers in a checkpoint are finite."""
    return bool(checkpoint.body.get("finite", True))


def good(log: CommitLog, stage: int) -> list[Entry]:
    """Returns the checkpoints of a stage that training may go back to, newest first: none of what diverged and went on."""
    saved = [entry for entry in counting(log, stage) if is_finite(entry)]
    return [entry for entry in saved if not entry.body.get("final") and not entry.body.get("diverged")]


def in_a_row(log: CommitLog, stage: int) -> list[Entry]:
    """Returns the times that a stage went back since it had no good checkpoint of so many steps, or since it gave up.

    Oldest first. An epoch of which all batches are left out ends with a checkpoint too, which is no progress.
    """
    found, saved = diverged(log, stage), good(log, stage)
    of_newest = [entry.number for entry in saved if entry.body["step"] == saved[0].body["step"]]
    since = max([min(of_newest, default=0), *(entry.number for entry in found if not went_back(entry))])
    return [entry for entry in found if went_back(entry) and entry.number > since]


def skipped(log: CommitLog, stage: int) -> list[list[Place]]:
    """Returns the first and the last batch of each range that a stage leaves out."""
    return [entry.body["skipped"] for entry in diverged(log, stage) if went_back(entry)]


def end_of_skip(log: CommitLog, stage: int, back_to: int, here: Place) -> Place:
    """Returns the last batch to leave out where training goes back to a checkpoint.

    That is the one here, or the one at which an attempt that did not go back wrote down that training diverged.
    """
    turns = [entry.number for entry in diverged(log, stage) if went_back(entry)]
    since = max([back_to, *turns])
    written = [[e.body["epoch"], e.body["batch"]] for e in diverged(log, stage) if e.number > since]
    return min([*written[:1], list(here)])
