"""Which files of a run may go, and in which order they do."""

from collections.abc import Collection, Iterable

from service.storage import layout, receipts
from service.storage.commits import Writer
from service.storage.entries import Entry


def surplus(log: Writer, keep: int, pinned: Collection[int] = ()) -> list[int]:
    """Returns the numbers to delete so that the `keep` newest checkpoints and the pinned ones stay.

    Damaged entries older than all that stay go too: were they whole, they would.
    """
    saved = [entry.number for entry in log.checkpoints()]
    stay = {*saved[: max(keep, 1)], *(number for number in saved if number in pinned)}
    older = [number for number in log.damaged if stay and number < min(stay)]
    return sorted([*(number for number in saved if number not in stay), *older])


def delete(log: Writer, numbers: Iterable[int]) -> list[str]:
    """Deletes checkpoints, and damaged entries' claim on files, for good; returns the files removed.

    The tombstone is committed first: after it no checkpoint that counts names the files,
    so dying between any two removals leaves only files for `sweep`.

    Raises:
        ValueError: when a number is no checkpoint, or no checkpoint would be left.
        Superseded: before anything is removed.
    """
    numbers = sorted({*numbers})
    saved = {entry.number: entry for entry in log.checkpoints()}
    if unknown := [number for number in numbers if number not in saved and number not in log.damaged]:
        raise ValueError(f"There is no checkpoint {unknown[0]} to delete. There is: {sorted(saved)}.")
    going = [saved[number] for number in numbers if number in saved]
    if going and len(going) == len(saved):
        raise ValueError(f"Deleting {numbers} would leave no checkpoint to go on from.")
    if not numbers:
        return []
    staying = [entry for entry in saved.values() if entry not in going]
    log.append("deleted", {"numbers": numbers, "files": sorted(_files(going) - _files(staying))})
    return _remove(log, _files(going))


def sweep(log: Writer) -> list[str]:
    """Removes what interrupted saves and deletions left behind; returns the files removed.

    These are files that a tombstone names, and files of older attempts that no entry
    names. A file of an attempt that is not older than this writer's is left alone: a
    newer attempt, unknown to a superseded writer, may be about to commit it.
    """
    openings = [entry.attempt for entry in log.entries() if entry.kind == "opened"]
    older = set(openings[: openings.index(log.attempt)]) if log.attempt in openings else set()
    there = log.store.list(layout.SHARDS)
    dead = {file for entry in log.entries() if entry.kind == "deleted" for file in entry.body["files"]}
    log.store.remove_leftovers()
    return _remove(log, [file for file in there if file in dead or layout.attempt_of(file) in older])


def discard(log: Writer, files: Iterable[str]) -> list[str]:
    """Removes files of this writer's own saves that came to nothing; returns those removed.

    A save whose entry may yet be in the log is known once a later append has succeeded: not before.
    """
    return _remove(log, files)


def _remove(log: Writer, files: Iterable[str]) -> list[str]:
    """Removes the files that nothing may still need."""
    # A damaged entry may be a checkpoint that names any of them, and may yet be mended.
    if any(number < log.last for number in log.damaged):
        return []
    free = sorted({*files} - _files(log.checkpoints()))
    for file in free:
        log.store.delete(file)
    return free


def _files(checkpoints: Iterable[Entry]) -> set[str]:
    return {file for entry in checkpoints for file in receipts.files(entry.body["shards"])}
