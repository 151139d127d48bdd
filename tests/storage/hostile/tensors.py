"""Files of tensors that somebody else has written, most under true names and checksums."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.storage import layout
from tests.storage.hostile.cases import LAST, PICKLED, case, fields_of, sign


def own(run: Path) -> list[int]:
    """Returns which of the newest checkpoint's files the one before does not have."""
    before = {receipt["file"] for receipt in fields_of(run, layout.commit(2))["body"]["shards"]}
    return [i for i, receipt in enumerate(fields_of(run)["body"]["shards"]) if receipt["file"] not in before]


def reshard(change: Callable[[dict[str, Any], bytes], tuple[bytes, bytes]]) -> Callable[[Path, Path], Any]:
    """The newest checkpoint's first file made anew of a header and a body, under its true name, size and checksums."""

    def spoil(run: Path, outside: Path) -> None:
        fields = fields_of(run)
        receipt = fields["body"]["shards"][own(run)[0]]
        data = (run / receipt["file"]).read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header, content = change(json.loads(data[8:start]), data[start:])
        made = header if header[:1] == b"!" else len(header).to_bytes(8, "little") + header
        made = made.removeprefix(b"!") + content
        sha256 = hashlib.sha256(made).hexdigest()
        receipt |= {"file": layout.shard("a1", "1" * 8, sha256), "size": len(made), "sha256": sha256}
        (run / receipt["file"]).write_bytes(made)
        (run / LAST).write_bytes(sign(fields))

    return spoil


def placed(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path, Path], Any]:
    """The tensors' descriptions in a header changed, in the order in which they lie."""

    def edit(header: dict[str, Any], content: bytes) -> tuple[bytes, bytes]:
        tensors = sorted((header[key] for key in header if key != "__metadata__"), key=lambda about: about["data_offsets"])
        change(tensors)
        return json.dumps(header).encode(), content

    return reshard(edit)


def offsets(*values: Any) -> Callable[[Path, Path], Any]:
    return placed(lambda tensors: tensors[0].__setitem__("data_offsets", [*values]))


def overlap(tensors: list[dict[str, Any]]) -> None:
    begin, end = tensors[1]["data_offsets"]
    tensors[1]["data_offsets"] = [begin - 4, end - 4]


def said_twice(header: dict[str, Any], content: bytes) -> tuple[bytes, bytes]:
    text = json.dumps(header)
    return (text[:-1] + ", " + text[1:]).encode(), content


FILE = ".safetensors"
for name, header in {
    "says that it has 2**60 bytes": b"!" + (2**60).to_bytes(8, "little") + b"{}",
    "says that it has 2**64 - 1 bytes": b"!" + b"\xff" * 8,
    "ends before its length": b"!" + b"\x01\0",
    "has no bytes": b"",
    "is a list": b"[]",
    "is lists in lists": b"[" * 100_000,
    "is no UTF-8": b"\xff\xfe",
    "is a pickle": PICKLED,
    "says NaN": b'{"__metadata__": NaN}',
    "names no tensor": b"{}",
}.items():
    case(f"a file's header {name}", FILE, 1, reshard(lambda _, content, header=header: (header, content)))
case("a file's header has a tensor twice", "twice", 1, reshard(said_twice))
for name, values in {
    "negative": (-8, 0),
    "beyond the file": (0, 2**40),
    "at 2**62": (2**62, 2**62 + 8),
    "backwards": (8, 0),
    "not whole": (0.0, 8.0),
    "three": (0, 4, 8),
    "text": ("0", "8"),
}.items():
    case(f"a tensor's offsets are {name}", FILE, 1, offsets(*values))
case("tensors overlap", "and the one before ends at", 1, placed(overlap))
case("bytes are left over", "its tensors end at", 1, reshard(lambda header, c: (json.dumps(header).encode(), c + PICKLED)))
for field, value in (("dtype", "O"), ("dtype", "F64"), ("shape", [2**60]), ("shape", [-1]), ("shape", "x"), ("dtype", None)):
    spoil = placed(lambda tensors, field=field, value=value: tensors[0].__setitem__(field, value))
    case(f"a tensor's {field} in its file is {value!r}", FILE, 1, spoil)


def shard(change: Callable[[Path, Path], Any]) -> Callable[[Path, Path], Any]:
    """Something else where the newest checkpoint's first file was."""

    def spoil(run: Path, outside: Path) -> None:
        change(run / fields_of(run)["body"]["shards"][own(run)[0]]["file"], outside)

    return spoil


def link_out(path: Path, outside: Path) -> None:
    shutil.move(path, outside / "there")
    path.symlink_to(outside / "there")


def pipe(path: Path, outside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path, outside: Path) -> None:
    path.unlink()
    path.mkdir()


case("a file of tensors is a pickle", FILE, 1, shard(lambda path, _: path.write_bytes(PICKLED)))
case("a file of tensors is a zip", FILE, 1, shard(lambda path, _: path.write_bytes(b"PK\x03\x04" + PICKLED)))
case("a file of tensors is an array of objects", FILE, 1, shard(lambda path, _: path.write_bytes(b"\x93NUMPY\x01\0" + PICKLED)))
case("a file of tensors is 2**40 bytes", "has 1099511627776 bytes", 1, shard(lambda path, _: os.truncate(path, 2**40)))
case("a file of tensors is a link", "is a link", 1, shard(link_out))
case("a file of tensors is a pipe", "is no plain file", 1, shard(pipe))
case("a file of tensors is a folder", "is missing", 1, shard(folder))


def link_folder(name: str) -> Callable[[Path, Path], Any]:
    def spoil(run: Path, outside: Path) -> None:
        shutil.move(run / name, outside / name)
        (run / name).symlink_to(outside / name)

    return spoil


def file_for_folder(name: str) -> Callable[[Path, Path], Any]:
    def spoil(run: Path, outside: Path) -> None:
        shutil.rmtree(run / name)
        (run / name).write_bytes(PICKLED)

    return spoil


for name, step in (("commits", 0), ("shards", 0)):
    case(f"{name} is a link to a folder outside", f"{name} is a link", step, link_folder(name))
case("commits is a file", "commits is there, and is no folder", 0, file_for_folder("commits"))
case("shards is a file", "is missing", 0, file_for_folder("shards"))
