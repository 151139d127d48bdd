import dataclasses
import hashlib
import json
import math

import pytest

from service.errors import Corrupt
from service.storage import entries
from service.storage.entries import Entry

GOOD = Entry(
    7, "finished", "a1", "0" * 32, 12.5, "f" * 64, {"loss": float("nan"), "best": -math.inf, "text": "ж\ud800", "n": 2**70}
)


def forged(**changes):
    """Returns the bytes of an entry with any fields, and a true checksum."""
    fields = {**dataclasses.asdict(GOOD), **changes}
    fields["sha256"] = hashlib.sha256(entries._canonical(fields)).hexdigest()
    return entries._canonical(fields)


def test_an_entry_comes_back_as_it_was():
    again = entries.decode(7, entries.encode(GOOD))
    assert repr(sorted(again.body.items())) == repr(sorted(GOOD.body.items()))  # for NaN is not equal to itself
    assert dataclasses.replace(again, body={}) == dataclasses.replace(GOOD, body={})
    assert entries.encode(again) == entries.encode(GOOD) == forged()


def test_every_flipped_bit_and_every_truncation_is_found():
    data = entries.encode(GOOD)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt, match=r"commits/00000007\.json is damaged"):
            entries.decode(7, bytes(changed))
    for length in range(len(data)):
        with pytest.raises(Corrupt):
            entries.decode(7, data[:length])
    for changed in (data + b" ", b" " + data, data.replace(b",", b", ", 1), data + data):
        with pytest.raises(Corrupt):
            entries.decode(7, changed)


def test_an_entry_in_anothers_place_is_found():
    with pytest.raises(Corrupt, match=r"00000008\.json is damaged: it is entry 7"):
        entries.decode(8, entries.encode(GOOD))


CHECKPOINT = {"stage": 1, "step": 0, "epoch": 0, "shards": [], "state": {}}
DIVERGENCE = {
    **{"stage": 1, "step": 3, "epoch": 0, "batch": 2, "loss": math.nan, "why": "its loss is nan"},
    **{"back_to": 6, "skipped": [[0, 1], [0, 2]], "is_over": False},
}


@pytest.mark.parametrize(
    "changes",
    [{"number": number} for number in (0, -1, 2**80, 7.0, "7", None, True, [7])]
    + [{"kind": kind} for kind in ("", "unknown", None, ["opened"], {}, 3)]
    + [{"attempt": attempt} for attempt in ("", "../x", "a/b", "a" * 41, None, 5, "a b", "a\n")]
    + [{"nonce": nonce} for nonce in ("", "g" * 32, 3, None)]
    + [{"time": time} for time in (math.inf, math.nan, "now", None, 5)]
    + [{"previous": previous} for previous in ("x", None, 0, "F" * 64)]
    + [{"body": body} for body in (None, [], "x", 3)]
    + [{"kind": "checkpoint", "body": body} for body in ({}, {**CHECKPOINT, "step": -1}, {**CHECKPOINT, "step": 1e300})]
    + [{"kind": "checkpoint", "body": {**CHECKPOINT, field: "x"}} for field in CHECKPOINT]
    + [{"kind": "checkpoint", "body": {**CHECKPOINT, "stage": stage}} for stage in (0, True, 2**80)]
    + [{"kind": "checkpoint", "body": {**CHECKPOINT, "shards": [{"file": "../../etc/passwd"}]}}]
    + [{"kind": "deleted", "body": {"numbers": numbers, "files": []}} for numbers in ([7], [8], [0], ["1"], 1, None, [2**80])]
    + [{"kind": "deleted", "body": {"numbers": [], "files": files}} for files in (["../x"], ["run.json"], [3], "x", None)]
    + [{"kind": "diverged", "body": {**DIVERGENCE, field: value}} for field in DIVERGENCE for value in (["x"], None, -1, 2**80)]
    + [{"kind": "diverged", "body": {**DIVERGENCE, "back_to": number}} for number in (7, 8, True)]
    + [
        {"kind": "diverged", "body": {**DIVERGENCE, "skipped": places}}
        for places in ([[0, 1]], [[0], [0, 2]], [[0, -1], [0, 2]])
    ]
    + [{"kind": "stage", "body": body} for body in ({"stage": 1}, {"stage": 0, "result": {}}, {"stage": 1, "result": []})]
    + [{"extra": 1}],
    ids=str,
)
def test_a_hostile_entry_with_a_true_checksum_is_refused(changes):
    with pytest.raises(Corrupt, match="is damaged"):
        entries.decode(7, forged(**changes))


def test_a_divergence_comes_back_as_it_was():
    for changes in ({}, {"back_to": 0}, {"skipped": [], "is_over": True}, {"loss": 3.5}):
        body = {**DIVERGENCE, **changes}
        assert repr(entries.decode(7, forged(kind="diverged", body=body)).body) == repr(dict(sorted(body.items())))


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"[" * 100_000, b"9" * 10_000, b"\xff\xfe", b'{"a":1e999}'])
def test_what_is_no_entry_at_all_is_refused(data):
    with pytest.raises(Corrupt):
        entries.decode(7, data)


@pytest.mark.parametrize(
    ("body", "problem"),
    [({"a": [{1: "a"}]}, "the key 1 is no text"), ({"x": "y" * 2000}, "arrays belong into tensors")],
    ids=["keys that are no text", "too large"],
)
def test_a_body_that_could_not_be_read_back_is_refused_when_written(body, problem, monkeypatch):
    monkeypatch.setattr(entries, "MOST_BYTES", 2000)
    with pytest.raises(ValueError, match=problem):
        entries.encode(dataclasses.replace(GOOD, body=body))


def test_the_bytes_are_json_that_other_tools_read():
    assert json.loads(entries.encode(GOOD))["number"] == 7
