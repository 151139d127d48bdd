"""The newest checkpoint whose every byte is as it was committed."""

import dataclasses
from collections.abc import Collection

import numpy as np

from service.errors import Corrupt
from service.storage import layout, shards
from service.storage.commits import CommitLog
from service.storage.entries import Entry


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint read back.

    Attributes:
        entry: the checkpoint's entry.
        tensors: its tensors by name; some are read-only.
        skipped: what was wrong with each newer checkpoint or entry, by number. They are kept.
    """

    entry: Entry
    tensors: dict[str, np.ndarray]
    skipped: dict[int, str]


def newest(
    log: CommitLog, stage: int | None = None, final: bool | None = None, without: Collection[int] = ()
) -> Restored | None:
    """Returns the newest whole checkpoint of a stage (or of any), or None where there is none.

    Args:
        log: the run's, refreshed.
        stage: which stage's; None takes any.
        final: True takes what a finished stage left, False what training goes on from, None either.
        without: numbers of checkpoints that do not count, see `detours.left_behind`.

    Raises:
        Corrupt: when there are checkpoints, or may have been, and none is whole, naming what is wrong with each.
    """
    skipped = dict(log.damaged)
    checkpoints = [entry for entry in log.checkpoints(stage) if final is None or bool(entry.body.get("final")) == final]
    checkpoints = [entry for entry in checkpoints if entry.number not in without]
    for entry in checkpoints:
        try:
            tensors = shards.read_tensors(log.store, entry.body["shards"])
        except Corrupt as error:
            skipped[entry.number] = str(error)
        else:
            newer = {number: problem for number, problem in sorted(skipped.items()) if number > entry.number}
            return Restored(entry, tensors, newer)
    if checkpoints or _may_have_been(log, stage):
        problems = "\n".join(f"  {number}: {problem}" for number, problem in sorted(skipped.items()))
        raise Corrupt(
            f"No checkpoint of {log.store.url} is whole:\n{problems}\n"
            "Put what is damaged back from a copy, or give the run another name to begin anew."
        )
    return None


def _may_have_been(log: CommitLog, stage: int | None) -> bool:
    """Whether an entry that cannot be read may be a checkpoint of the stage: training must not begin anew over it.

    It is none where it is older than the result of an earlier stage, nor in a run without files of tensors.
    """
    results = [e.number for e in log.entries() if e.kind == "stage" and stage is not None and e.body["stage"] < stage]
    return max(log.damaged, default=0) > max(results, default=0) and bool(log.store.list(layout.SHARDS))


def one(log: CommitLog, number: int) -> Restored:
    """Returns the checkpoint of that number, every byte verified.

    Raises:
        Corrupt: it is not whole, or there is none.
    """
    for entry in log.checkpoints():
        if entry.number == number:
            return Restored(entry, shards.read_tensors(log.store, entry.body["shards"]), {})
    raise Corrupt(f"There is no checkpoint {number} in {log.store.url}.")
