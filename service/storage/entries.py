"""One entry of the commit log: its fields, its bytes, and the proof that they are whole."""

import dataclasses
import hashlib
import json
import math
import re
from typing import Any

from service.errors import Corrupt
from service.storage import layout, receipts

KINDS = ("opened", "checkpoint", "deleted", "diverged", "stage", "finished")
MOST_BYTES = 64 * 2**20  # an entry is JSON about tensors, never the tensors

_NONCE = re.compile(r"[0-9a-f]{32}")
_FIELDS = {"number", "kind", "attempt", "nonce", "time", "previous", "body", "sha256"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing that counts as having happened to a run.

    Attributes:
        number: the entry's place in the log, from 1.
        kind: "opened" (a new attempt has the run), "checkpoint", "deleted" (checkpoints
            that no longer count), "diverged" (training has, see `detours`), "stage" (one has its result) or "finished".
        attempt: which attempt wrote it.
        nonce: which writer wrote it: drawn once for each, so that a writer knows its own.
        time: seconds since 1970 by the writer's clock; only to be shown.
        previous: the SHA-256 of the bytes of the entry before, or "" where that one was
            not readable to the writer.
        body: what happened, a JSON object. A checkpoint's has "stage", "step", "epoch",
            "shards" (see `receipts.check`), "state" (an object of the caller's) and perhaps
            "metrics" (numbers by name); a deletion's the "numbers" of checkpoints and the
            "files" that go with them; a divergence's its place ("stage", "epoch", "batch",
            "step"), the "loss" there, "why" it counts, the checkpoint "back_to" which a run goes,
            0 for the stage's beginning, the first and last batch that are "skipped", none where
            it did not go, and whether the run "is_over"; a stage's the "stage" and its "result".
    """

    number: int
    kind: str
    attempt: str
    nonce: str
    time: float
    previous: str
    body: dict[str, Any]


def encode(entry: Entry) -> bytes:
    """Returns the entry's bytes: canonical JSON that holds the SHA-256 of its other fields.

    Raises:
        ValueError: naming what in the body could not be read back.
    """
    _check_body(entry)
    _check_keys(entry.body)
    fields = dataclasses.asdict(entry)
    data = _canonical({**fields, "sha256": hashlib.sha256(_canonical(fields)).hexdigest()})
    if len(data) > MOST_BYTES:
        raise ValueError(f"an entry of {len(data)} bytes is above {MOST_BYTES}: arrays belong into tensors")
    return data


def decode(number: int, data: bytes) -> Entry:
    """Returns the entry that `data` is, if every bit of it is as it was written.

    Raises:
        Corrupt: naming the entry and what is wrong.
    """
    try:
        fields = json.loads(data.decode())
        if not isinstance(fields, dict) or set(fields) != _FIELDS:
            raise ValueError("its fields are not those of an entry")
        sha256 = fields.pop("sha256")
        if sha256 != hashlib.sha256(_canonical(fields)).hexdigest() or data != _canonical({**fields, "sha256": sha256}):
            raise ValueError("its bytes are not those that were committed")
        entry = Entry(**fields)
        _check_fields(entry)
        if entry.number != number:
            raise ValueError(f"it is entry {entry.number}")
        _check_body(entry)
    except (ValueError, TypeError, RecursionError) as error:
        raise Corrupt(f"Entry {layout.commit(number)} is damaged: {error}.") from error
    return entry


def _canonical(fields: dict[str, Any]) -> bytes:
    # Infinity and NaN are written as Python's json reads them: a loss may be either, and
    # the best value of a callback that has seen none is Infinity.
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _check_keys(value: Any) -> None:
    """Raises ValueError for a key that JSON would turn into text, and so not give back."""
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"the key {wrong[0]!r:.100} is no text")
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for part in value:
        _check_keys(part)


def _check_fields(entry: Entry) -> None:
    if not receipts.is_whole(entry.number, 1, layout.LAST_NUMBER):
        raise ValueError("its number is malformed")
    if not isinstance(entry.attempt, str) or not layout.ATTEMPT.fullmatch(entry.attempt):
        raise ValueError("its attempt is malformed")
    if not isinstance(entry.nonce, str) or not _NONCE.fullmatch(entry.nonce):
        raise ValueError("its nonce is malformed")
    if type(entry.time) is not float or not math.isfinite(entry.time):
        raise ValueError("its time is malformed")
    if entry.previous != "" and not receipts.is_sha256(entry.previous):
        raise ValueError("its link to the entry before is malformed")


def _check_result(result: dict[str, Any]) -> None:
    """Checks what of a stage's or a run's result is read back."""
    if not receipts.is_whole(result.get("epochs", 0)) or type(result.get("stopped", False)) is not bool:
        raise ValueError("how far the result's training went is malformed")
    for name in ("history", "metrics", "options"):
        if not isinstance(result.get(name, {}), dict):
            raise ValueError(f"the result's {name} is no object")
    if not all(isinstance(values, list) for values in result.get("history", {}).values()):
        raise ValueError("the result's history is no lists by name")


def _check_body(entry: Entry) -> None:
    body = entry.body
    if not isinstance(body, dict):
        raise ValueError("its body is no object")
    if entry.kind not in KINDS:
        raise ValueError(f"its kind is {entry.kind!r:.100}, and this version knows {', '.join(KINDS)}")
    if entry.kind in ("checkpoint", "diverged", "stage") and not receipts.is_whole(body.get("stage"), 1):
        raise ValueError(f"its stage is {body.get('stage')!r:.100}")
    if entry.kind == "stage":
        if not isinstance(body.get("result"), dict):
            raise ValueError("the stage's result is no object")
        _check_result(body["result"])
    if entry.kind == "finished":
        _check_result(body)
    if entry.kind == "checkpoint":
        if not receipts.is_whole(body.get("step")) or not receipts.is_whole(body.get("epoch")):
            raise ValueError(f"its step is {body.get('step')!r:.100} and its epoch {body.get('epoch')!r:.100}")
        if not isinstance(body.get("state"), dict):
            raise ValueError("its state is no object")
        metrics = body.get("metrics", {})
        if not isinstance(metrics, dict) or not all(type(value) in (int, float) for value in metrics.values()):
            raise ValueError("its metrics are no numbers by name")
        receipts.check(body.get("shards"))
    if entry.kind == "diverged":
        _check_divergence(entry.number, body)
    if entry.kind == "deleted":
        numbers, files = body.get("numbers"), body.get("files")
        if not isinstance(numbers, list) or not all(receipts.is_whole(number, 1, entry.number - 1) for number in numbers):
            raise ValueError("the numbers it deletes are malformed")
        if not isinstance(files, list) or not all(isinstance(file, str) and layout.attempt_of(file) for file in files):
            raise ValueError("the files it deletes are malformed")


def _check_divergence(number: int, body: dict[str, Any]) -> None:
    if not all(receipts.is_whole(body.get(field)) for field in ("epoch", "batch", "step")):
        raise ValueError("the place where training diverged is malformed")
    if [type(body.get(field)) for field in ("loss", "why", "is_over")] != [float, str, bool]:
        raise ValueError("what is wrong with the loss is malformed")
    if not receipts.is_whole(body.get("back_to"), 0, number - 1):
        raise ValueError(f"it goes back to {body.get('back_to')!r:.100}")
    skipped = body.get("skipped")
    if not isinstance(skipped, list) or len(skipped) not in (0, 2) or not all(map(_is_place, skipped)):
        raise ValueError("the batches it leaves out are malformed")


def _is_place(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(receipts.is_whole, value))
