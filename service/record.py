"""The record of a run, run.json: what was asked, of which code; created once."""

import dataclasses
import hashlib
import itertools
import json
import math
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from service import environment, secrecy
from service.errors import Corrupt, OptionUnknown, RunInvalid, StorageError
from service.policies import placing
from service.run import Run
from service.storage import documents, layout
from service.storage.commits import CommitLog
from service.storage.lease import Lease
from service.storage.store import Store

LEASE_SECONDS = 12.0  # how long after a driver's death another one waits, at most
_MAY_CHANGE = ("epochs",)
# What a run cannot go on without.
_FIELDS: dict[str, tuple[type, ...]] = {"run": (dict,), "job": (str, type(None)), "seed": (int,), "options": (dict,)}
_MISSING = object()


def begin(store: Store, run: Run, reference: str | None, options: Mapping[str, Any], source: str) -> Run:
    """Creates the record, or holds the run to the one there is; returns the run with its seed filled in.

    Raises:
        RunInvalid: the folder holds a run of another job, seed or options; the differences are shown.
    """
    drawn = dataclasses.replace(run, seed=secrets.randbelow(2**32) if run.seed is None else run.seed)
    asked = {"job": reference, "seed": drawn.seed, "options": dict(options)}
    about = {
        "run": drawn.to_dict(),
        **asked,
        "strategy": placing.choose(run)._asdict(),
        "versions": environment.versions(),
        "git_commit": _git_commit(),
        "command": secrecy.redacted_words(sys.argv),
        "source": {"sha256": hashlib.sha256(source.encode()).hexdigest(), "text": source},
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    if store.create(layout.RUN, json.dumps(about, indent=1).encode()):
        return drawn
    recorded = read(store)
    if run.seed is None:
        asked["seed"] = recorded["seed"]
    differences = _differences(recorded, asked)
    if differences:
        shown = "\n".join(f"  {name}: recorded {was!r}, given {given!r}" for name, was, given in differences)
        raise RunInvalid(
            f'Run "{run.name}" in {store.url} was begun otherwise:\n{shown}\n'
            "Give what was recorded to go on with it, or another name to begin a new run."
        )
    return dataclasses.replace(run, seed=recorded["seed"])


def read(store: Store) -> dict[str, Any]:
    """Returns the record.

    Raises:
        Corrupt: naming the file and what is wrong with it.
        FileNotFoundError: there is none.
    """
    recorded = documents.read(store, layout.RUN)
    for name, kinds in _FIELDS.items():
        if not isinstance(recorded.get(name, _MISSING), kinds) or isinstance(recorded.get(name), bool):
            what = f"its {name} is {recorded[name]!r:.100}" if name in recorded else f"it lacks its {name}"
            raise Corrupt(f"{store.url_of(layout.RUN)} is damaged: {what}.")
    return recorded


@contextmanager
def owned(store: Store) -> Iterator[None]:
    """Holds the run's lease while the block runs, so that a second driver is told who has the run.

    Raises:
        StorageError: another driver is alive; its host and process are named.
    """
    lease = Lease(store, ttl_seconds=LEASE_SECONDS)
    lease.acquire()
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE_SECONDS / 4):
            try:
                lease.renew()
            except StorageError:  # the lease is politeness; the commit log stops whoever lost the run
                continue

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        lease.release()


def free_name(storage: str, name: str) -> str:
    """Returns the name, or the first of name-2, name-3, ... under which the storage has no run."""
    numbered = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    return next(n for n in numbered if not Store(f"{storage.rstrip('/')}/{n}").exists(layout.RUN))


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options as their record will give them back: a tuple becomes a list.

    Raises:
        OptionUnknown: an option that JSON cannot hold, or would give back as something else, or that is a secret.
    """
    secrecy.check_options(options)
    return {name: _plain(name, value) for name, value in options.items()}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(f"{name}[{key!r}]", item) for key, item in value.items()}
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise OptionUnknown(
        f"The job's option {name}={value!r} cannot be recorded: options must be plain JSON values "
        "(text, finite numbers, true, false, null, lists, and dicts whose keys are text)."
    )


def finished(store: Store, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the recorded result of a run that finished with these very options, else None."""
    log = CommitLog(store)
    log.refresh()
    ends = [entry.body for entry in log.entries() if entry.kind == "finished"]
    return ends[-1] if ends and ends[-1].get("options") == dict(options) else None


def _differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    found = [(name, recorded[name], asked[name]) for name in ("job", "seed") if recorded[name] != asked[name]]
    was, given = recorded["options"], json.loads(json.dumps(asked["options"]))
    names = [name for name in dict.fromkeys([*was, *given]) if name not in _MAY_CHANGE]
    return found + [(name, was.get(name), given.get(name)) for name in names if was.get(name) != given.get(name)]


def _git_commit() -> str | None:
    """Returns the commit of the working folder, with "+changes" where files differ from it; None outside a checkout."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        status = subprocess.run(
            ["git", "--no-optional-locks", "status", "--porcelain"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
