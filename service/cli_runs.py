"""What the storage tells of its runs, as plain values."""

import datetime
import difflib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from service import record
from service.errors import Corrupt, StorageError, did_you_mean
from service.storage import detours, layout, retries, urls
from service.storage.commits import CommitLog
from service.storage.entries import Entry
from service.storage.store import Store

_READERS = 8  # runs read at once: in a bucket each costs a few round trips


def connect(url: str) -> Store:
    """Returns the store at a URL; somebody waits for the answer, so it gives up sooner than a run would."""
    return Store(url, retry=retries.Policy(deadline_seconds=30.0))


def run_at(url: str) -> Store:
    """Returns the store of the run at a URL.

    Raises:
        StorageError: there is no run; names the runs that are near.
    """
    store = connect(url)
    if store.exists(layout.RUN) or store.list(layout.COMMITS):
        return store
    parent, _, name = store.url.rpartition("/")
    if inside := _runs_in(store.url):
        raise StorageError(f"{store.url} is no run, but holds runs: {', '.join(inside)}. Add the name: {store.url}/{inside[0]}")
    if near := _runs_in(parent):
        raise StorageError(f'there is no run "{name}" in {parent}. {did_you_mean(name, near)}')
    raise StorageError(
        f"there is no run at {store.url}, nor any beside it: a run's folder has {layout.RUN} and {layout.COMMITS}/. "
        "Give the folder that training printed at its end."
    )


def summaries(store: Store, now: float) -> list[dict[str, Any]]:
    """Returns a line about each run under a URL, by name.

    Raises:
        StorageError: the URL is a folder of this machine that does not exist.
    """
    if urls.is_folder(store.url) and not os.path.isdir(store.url):
        parent, name = os.path.split(store.url)
        folders = [name for name in _names(parent) if os.path.isdir(os.path.join(parent, name))]
        close = difflib.get_close_matches(name, folders, n=1)  # all there is would be a list of anything
        hint = f'Did you mean "{close[0]}"?' if close else "Give the storage that the runs were given."
        raise StorageError(f"there is no folder {store.url}. {hint}")
    names = _runs_among(store.list())
    with ThreadPoolExecutor(_READERS) as readers:
        return [*readers.map(lambda name: _summary(connect(f"{store.url}/{name}" if name else store.url), name, now), names)]


def about(store: Store, now: float) -> dict[str, Any]:
    """Returns all that the record, the commit log and the sizes of the files tell of a run."""
    log = CommitLog(store)
    log.refresh()
    entries, checkpoints, left = log.entries(), log.checkpoints()[::-1], detours.left_behind(log)
    sizes = store.sizes()
    damage = {entry.number: _wrong_sizes(entry, sizes) for entry in checkpoints}
    if any(damage.values()):
        log.refresh()  # a run that goes on may just have deleted them
    asked, problem = read_record(store)
    if isinstance(asked.get("source"), dict):
        asked = {**asked, "source": {"sha256": asked["source"].get("sha256")}}
    ends = [entry for entry in entries if entry.kind == "finished"]
    return {
        **_summary_of(store, log, name_of(store), now),
        "record": asked,
        "record_problem": problem,
        "lease": _lease_owner(store) if layout.LEASE in sizes else None,
        "bytes": sum(sizes.values()),
        "attempts": [
            {**entry.body, **_when(entry, now), "attempt": entry.attempt} for entry in entries if entry.kind == "opened"
        ],
        "checkpoints": [
            {**_checkpoint(entry, now), "damaged": damage[entry.number], "left_behind": entry.number in left}
            for entry in checkpoints
            if entry.number not in log.deleted()
        ],
        "divergences": [{**entry.body, **_when(entry, now)} for entry in detours.diverged(log)],
        "stages": [_stage(number, result) for number, result in sorted(log.results().items())],
        "result": {**_when(ends[-1], now), **ends[-1].body} if ends else None,
        "has_model": layout.model() in sizes,
    }


def read_record(store: Store) -> tuple[dict[str, Any], str]:
    """Returns run.json and "", or {} and what is wrong with it."""
    try:
        return record.read(store), ""
    except FileNotFoundError:
        return {}, f"{layout.RUN} is missing."
    except Corrupt as error:
        return {}, str(error)


def name_of(store: Store) -> str:
    """Returns a run's name: its folder's."""
    return store.url.rpartition("/")[2]


def describe(entry: Entry) -> dict[str, Any]:
    """Returns what a checkpoint is, without what it holds."""
    shards = entry.body["shards"]
    return {
        "number": entry.number,
        "stage": entry.body["stage"],
        "epoch": entry.body["epoch"],
        "step": entry.body["step"],
        "final": bool(entry.body.get("final")),
        "finite": detours.is_finite(entry),
        "bytes": sum(receipt["size"] for receipt in shards),
        "files": [receipt["file"] for receipt in shards],
    }


def _summary(store: Store, name: str, now: float) -> dict[str, Any]:
    log = CommitLog(store)
    log.refresh()
    return _summary_of(store, log, name or name_of(store), now)


def _summary_of(store: Store, log: CommitLog, name: str, now: float) -> dict[str, Any]:
    newest = next(iter(detours.counting(log)), None)
    return {
        "name": name,
        "url": store.url,
        "state": _state(log),
        "stage": newest.body["stage"] if newest else None,
        "epochs": newest.body["epoch"] if newest else 0,
        "step": newest.body["step"] if newest else 0,
        "committed": _when(newest, now) if newest else None,
        "metrics": _metrics(log, newest),
        "damaged_entries": dict(log.damaged),
    }


def _state(log: CommitLog) -> str:
    """Returns "new", "not finished" or "finished"; "unknown" where a damaged entry may say otherwise.

    Whether a run that is not finished is being trained now, its files cannot tell: only
    watching a lease for longer than its driver's renewals would (service/storage/lease.py).
    """
    entries = [entry for entry in log.entries() if entry.kind != "deleted"]
    is_begun = any(entry.kind != "opened" for entry in entries)
    if log.damaged and (not is_begun or max(log.damaged) > entries[-1].number):
        return "unknown"
    if entries and entries[-1].kind == "finished":
        return "finished"
    return "not finished" if is_begun else "new"


def _metrics(log: CommitLog, newest: Entry | None) -> dict[str, float]:
    """Returns the metrics of the end or else of the newest checkpoint, whichever is later."""
    ends = [entry for entry in log.entries() if entry.kind == "finished"]
    if ends and (newest is None or ends[-1].number > newest.number):
        return _numbers(ends[-1].body.get("metrics"))
    try:  # a state is the trainer's, which checks it before it goes on from there
        callbacks = newest.body["state"]["callbacks"] if newest else []
        histories = [found["state"].get("history", {}) for found in callbacks if found["class"] == "History"]
        return _last(histories[-1]) if histories else {}
    except (KeyError, TypeError, AttributeError):
        return {}


def _last(history: dict[str, list[Any]]) -> dict[str, float]:
    return _numbers({name: values[-1] for name, values in history.items() if values})


def _numbers(values: Any) -> dict[str, float]:
    """Returns the numbers among values; a checkpoint's state holds NaN and Infinity as {"$float": ...}."""
    if not isinstance(values, dict):
        return {}
    plain = {
        name: float(value["$float"]) if isinstance(value, dict) and "$float" in value else value
        for name, value in values.items()
    }
    return {name: value for name, value in plain.items() if isinstance(value, int | float)}


def _checkpoint(entry: Entry, now: float) -> dict[str, Any]:
    return {**describe(entry), **_when(entry, now), "attempt": entry.attempt}


def _stage(number: int, result: dict[str, Any]) -> dict[str, Any]:
    history = result.get("history", {})
    done = max(map(len, history.values()), default=0)
    return {"stage": number, "epochs": done, "stopped_early": bool(result.get("stopped")), "metrics": _last(history)}


def _when(entry: Entry, now: float) -> dict[str, Any]:
    """Returns an entry's number and time; two machines' clocks may differ, so no age is below 0."""
    time = datetime.datetime.fromtimestamp(entry.time, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"number": entry.number, "time": time, "age_seconds": max(0.0, now - entry.time)}


def _wrong_sizes(entry: Entry, sizes: dict[str, int]) -> list[str]:
    """Returns what a listing tells of a checkpoint's files; only reading them tells all."""
    wrong = []
    for receipt in entry.body["shards"]:
        if (size := sizes.get(receipt["file"])) is None:
            wrong.append(f"{receipt['file']} is missing.")
        elif size != receipt["size"]:
            wrong.append(f"{receipt['file']} has {size} bytes, and {receipt['size']} were committed.")
    return wrong


def _lease_owner(store: Store) -> dict[str, Any] | None:
    try:
        owner = json.loads(store.read(layout.LEASE))["owner"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return owner if isinstance(owner, dict) else None


def _runs_among(paths: Iterable[str]) -> list[str]:
    """Returns the folders that are runs, given all files' paths; "" is the place itself. A run holds no other."""
    found = set()
    for path in paths:
        folder, _, name = path.rpartition("/")
        above, _, last = folder.rpartition("/")
        if name == layout.RUN:
            found.add(folder)
        elif layout.number_of(f"{last}/{name}"):
            found.add(above)
    return sorted(run for run in found if run == "" or not any(_is_inside(run, other) for other in found))


def _is_inside(folder: str, other: str) -> bool:
    return folder != other and (other == "" or folder.startswith(f"{other}/"))


def _runs_in(url: str) -> list[str]:
    """Returns the runs in a folder, to tell of where a URL is wrong."""
    if not urls.is_folder(url):
        return [] if url.endswith(("/", ":")) else [run for run in _runs_among(connect(url).list()) if run]
    # Not through a listing, which goes down into everything: a mistyped path may be a home folder.
    parts = (layout.RUN, layout.COMMITS)
    return [name for name in _names(url) if any(os.path.exists(os.path.join(url, name, part)) for part in parts)]


def _names(folder: str) -> list[str]:
    """Returns what a folder of this machine holds, as far as it may be looked into."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
