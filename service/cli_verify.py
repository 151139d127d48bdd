"""Every byte of a run read back and compared with what was committed."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from service.cli_runs import describe, read_record
from service.errors import Corrupt
from service.storage import entries, layout, shards
from service.storage.commits import CommitLog
from service.storage.entries import Entry
from service.storage.store import Store

_READERS = 8
_CHUNK = 64 * 2**20


def checks(store: Store) -> Iterator[dict[str, Any]]:
    """Yields what each part of a run is like, as it is known.

    Each check has "what" was read, its "problems", and "notes" of what is amiss but
    needed by nothing. A checkpoint's has its number, stage, epoch, step and bytes too.
    """
    _, problem = read_record(store)
    yield _check(layout.RUN, [problem] if problem else [])
    log = CommitLog(store)
    log.refresh()
    yield _check_log(store, log)
    for entry in log.checkpoints()[::-1]:
        yield _check_checkpoint(store, entry)
    for stage in sorted({1, *log.results()}):
        yield from _check_model(store, stage, is_finished=stage in log.results())


def _check(what: str, problems: list[str], notes: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {"what": what, "problems": problems, "notes": notes or [], **more}


class _Link(NamedTuple):
    """An entry's place in the chain: the SHA-256 of its bytes, what it says of the one before, what is wrong."""

    sha256: str
    previous: str
    problem: str


def _check_log(store: Store, log: CommitLog) -> dict[str, Any]:
    """Checks every entry and its link to the one before, also of the checkpoints that were deleted."""
    last = max((entry.number for entry in log.entries()), default=0)
    deleted, problems, notes = log.deleted(), dict(log.damaged), dict[int, str]()
    listed = {number for path in store.list(layout.COMMITS) if (number := layout.number_of(path))}
    numbers = sorted(number for number in (listed | deleted) - problems.keys() if number <= last)
    with ThreadPoolExecutor(_READERS) as readers:
        links = dict(zip(numbers, readers.map(lambda number: _link(store, number), numbers), strict=True))
    for number, link in links.items():
        if link.problem:
            told = notes if number in deleted else problems
            told[number] = link.problem
        elif (below := links.get(number - 1)) and not below.problem and link.previous not in ("", below.sha256):
            # Of two neighbours that do not fit, a live one may be the one that was put there.
            told = notes if number - 1 in deleted else problems
            told[number] = (
                f"{layout.commit(number)} does not follow {layout.commit(number - 1)}: one of them was put there later."
            )
    told_notes = [f"{text} Nothing needs it: it was deleted." for text in notes.values()]
    return _check("commit log", [*problems.values()], told_notes, entries=last)


def _link(store: Store, number: int) -> _Link:
    try:
        data = store.read(layout.commit(number))
        return _Link(hashlib.sha256(data).hexdigest(), entries.decode(number, data).previous, "")
    except FileNotFoundError:
        return _Link("", "", f"Entry {layout.commit(number)} is missing.")
    except Corrupt as error:
        return _Link("", "", str(error))


def _check_checkpoint(store: Store, entry: Entry) -> dict[str, Any]:
    """Reads a checkpoint exactly as a run that goes on from it would."""
    what, about = f"checkpoint {entry.number}", describe(entry)
    try:
        shards.read_tensors(store, entry.body["shards"])
    except Corrupt as error:
        log = CommitLog(store)
        log.refresh()
        if entry.number in log.deleted():
            return _check(what, [], ["The run deleted it while it was read."], **about)
        # The reader stops at the first file that is wrong; every one is to be named.
        found = [problem for receipt in entry.body["shards"] if (problem := _wrong(store, receipt))]
        return _check(what, found or [str(error)], **about)
    return _check(what, [], **about)


def _wrong(store: Store, receipt: dict[str, Any]) -> str:
    """Returns what is wrong with a file of tensors, or ""."""
    file = receipt["file"]
    try:
        size, digest = store.size(file), hashlib.sha256()
        if size != receipt["size"]:
            return f"{file} has {size} bytes, and {receipt['size']} were committed."
        for begin in range(0, size, _CHUNK):
            digest.update(store.read_range(file, begin, min(begin + _CHUNK, size)))
    except FileNotFoundError:
        return f"{file} is missing."
    except Corrupt as error:
        return str(error)
    if digest.hexdigest() != receipt["sha256"]:
        return f"{file} has sha256 {digest.hexdigest()}, and {receipt['sha256']} was committed."
    return ""


def _check_model(store: Store, stage: int, is_finished: bool) -> Iterator[dict[str, Any]]:
    """Checks that a stage's model.keras is a whole archive and that its model.json goes with it."""
    paths = (layout.model(stage), layout.model_json(stage))
    there = [path for path in paths if store.exists(path)]
    if not there:
        if is_finished:
            yield _check(paths[0], [], [f"Neither it nor {paths[1]} is there, though the stage is finished."])
        return
    if missing := [path for path in paths if path not in there]:
        yield _check(paths[0], [f"{missing[0]} is missing, and {there[0]} is there."])
        return
    yield _check(paths[0], _wrong_model(paths[0], store.read(paths[0]), paths[1], store.read(paths[1])))


def _wrong_model(path: str, data: bytes, about_path: str, about_data: bytes) -> list[str]:
    try:
        about = json.loads(about_data)
        version, _ = about["keras"], [custom["home"] for custom in about["custom"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return [f"{about_path} is damaged: {type(error).__name__}: {error}."]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if (member := archive.testzip()) is not None:
                return [f"{path} is damaged: {member} in it does not have its checksum."]
            saved = (
                json.loads(archive.read("metadata.json"))["keras_version"] if "metadata.json" in archive.namelist() else version
            )
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,  # a member is compressed in a way that Python does not know
        RuntimeError,  # a member is encrypted
        ValueError,
        KeyError,
        TypeError,
    ) as error:
        return [f"{path} is damaged: it cannot be read as a zip archive: {error}."]
    if saved != version:
        return [f"{path} was saved by Keras {saved}, and {about_path} is of Keras {version}: they are not of one save."]
    return []
