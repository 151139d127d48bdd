"""Entries of the commit log that somebody else has written, and receipts in them."""

import os
from pathlib import Path

from service.storage import layout
from tests.storage.hostile.cases import (
    LAST,
    NEXT,
    PICKLED,
    body,
    case,
    edited,
    fields_of,
    forged,
    linked,
    piece,
    put,
    receipt,
    replaced,
    sign,
    sparse,
)


def copied(run: Path, outside: Path) -> None:
    (run / LAST).write_bytes((run / layout.commit(2)).read_bytes())


def gap(run: Path, outside: Path) -> None:
    (run / layout.commit(6)).write_bytes(sign({**fields_of(run), "number": 6}))


def twice_in_json(run: Path, outside: Path) -> None:
    data = (run / LAST).read_bytes()
    (run / LAST).write_bytes(data.replace(b'{"attempt"', b'{"kind":"opened","attempt"', 1))


ENTRY = f"{LAST} is damaged"
for name, data in {
    "a pickle": PICKLED,
    "code": b"__import__('os').system('echo pwned')",
    "nothing": b"",
    "NUL bytes": bytes(4096),
    "lists in lists in lists": b"[" * 100_000,
    "objects in objects": b'{"a":' * 100_000,
    "a number of 100,000 digits": b"9" * 100_000,
    "text that is no UTF-8": b"\xff\xfe{",
    "a class to make": b'{"$class": "os:system", "py/object": "os.system"}',
    "Infinity": b"Infinity",
}.items():
    case(f"an entry is {name}", ENTRY, 1, put(LAST, data))
case("an entry is 2**40 bytes", "1099511627776 bytes, which no entry has", 1, sparse(LAST))
case("an entry is a link", f"{LAST} is a link", 1, linked(LAST))
case("an entry is a pipe", f"{LAST} is no plain file", 1, replaced(LAST, os.mkfifo))
case("an entry is a link to a device", f"{LAST} is a link", 1, replaced(LAST, lambda path: path.symlink_to("/dev/zero")))
case("an entry is that of another number", "it is entry 2", 1, copied)
case("an entry leaves a gap", f"{NEXT} is missing", 2, gap)
case("an entry has a key twice", ENTRY, 1, twice_in_json)
case(
    "an entry of the next number has another past", "does not fit its neighbours", 2, forged(NEXT, number=4, previous="f" * 64)
)
for field, values in {
    "number": (3.0, True, -3, 2**80, "3"),
    "kind": ("unpickle", None, ["checkpoint"]),
    "attempt": ("../../x", "/etc", "a\0b", "a\x1b[31m", "a\n", "a\\b", 7),
    "nonce": ("", "g" * 32),
    "time": (float("nan"), float("inf"), "now"),
    "previous": ("x", None),
    "body": ([], None),
    "__class__": ("os:system",),
}.items():
    for value in values:
        case(f"an entry's {field} is {value!r:.30}", ENTRY, 1, forged(**{field: value}))
for field, values in {
    "step": (-1, 2**80, 1.5, True),
    "epoch": ("1",),
    "stage": (0,),
    "state": ([],),
    "metrics": ("low", {"val_loss": "low"}, {"val_loss": [1]}),
    "shards": ({}, [3], [{}]),
}.items():
    for value in values:
        case(f"a checkpoint's {field} is {value!r:.40}", ENTRY, 1, body(field, value))
for kind, value in (
    *(("stage", {"stage": 1, "result": []}), ("stage", {"stage": 1, "result": {"epochs": "all"}})),
    *(("stage", {"stage": 1, "result": {"stopped": "yes"}}), ("stage", {"stage": 1, "result": {"history": {"loss": 3}}})),
    *(("finished", {"history": []}), ("finished", {"options": 3}), ("finished", {"metrics": [1]})),
):
    case(
        f"an entry of kind {kind} says {value}",
        f"{NEXT} is damaged",
        2,
        forged(NEXT, number=4, kind=kind, body=value, previous=""),
    )
for numbers, files in (([4], []), ([9], []), ([-1], []), ([2], ["../x"]), ([2], ["run.json"]), ([2], ["shards/../run.json"])):
    about = {"numbers": numbers, "files": files}
    spoil = forged(NEXT, number=4, kind="deleted", body=about, previous="")
    case(f"a deletion of {numbers} with {files}", f"{NEXT} is damaged", 2, spoil)

SHARD = "shards/a1-00000000-" + "0" * 32 + ".safetensors"
for file in (
    *("../../etc/passwd", "/etc/passwd", "shards/../../x", "shards\\..\\x", f"{SHARD}\0", f"{SHARD}\n", f"\x1b[2J{SHARD}"),
    *(
        f"../other/{SHARD}",
        f"other/{SHARD}",
        f"gs://bucket/{SHARD}",
        f"file:///{SHARD}",
        "shards/a1.pkl",
        LAST,
        {"$class": "x"},
    ),
):
    case(f"a receipt's file is {file!r:.120}", "is no path of a file of tensors", 1, receipt("file", file))
case("a receipt's file has another content's name", "its name is not that of the content", 1, receipt("file", SHARD))
for field, values in {
    "size": (-1, 2**60, "9", 9.0),
    "sha256": ("0" * 32, "0" * 128, "F" * 64, 7),
    "pieces": ([], {}),
}.items():
    for value in values:
        case(f"a receipt's {field} is {value!r:.40}", ENTRY, 1, receipt(field, value))
case("a file has two receipts", "two receipts", 1, edited(lambda body: body["shards"].append(body["shards"][0])))
for field, values in {
    "dtype": ("O", "object", "V8", "U4", ["F32"]),
    "shape": ([2**60], [2**30, 2**30], [0, 2**60], [-1], [1] * 33, [float("nan")], "x"),
    "begin": (-1, 2**62),
    "end": (-1, 2**62, 1.0),
    "tensor": (7, None),
}.items():
    for value in values:
        case(f"a piece's {field} is {value!r:.40}", LAST, 1, piece(field, value))
case(
    "a piece is there twice",
    "is there twice",
    1,
    edited(lambda b: b["shards"][0]["pieces"].append(b["shards"][0]["pieces"][0])),
)
case("a tensor is not there", "is of another model", 0, edited(lambda b: b["shards"][-1]["pieces"].pop()))
case("a piece's dtype is another than its file's", "and F64 [] was committed", 1, piece("dtype", "F64"))
