"""Runs whose files somebody else has written: how each is spoiled, what must be said of it, what is restored."""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.storage import entries, layout

LAST = layout.commit(3)  # the newest checkpoint, of step 2; entry 2 is that of step 1, entry 1 opened the run
NEXT = layout.commit(4)
PLANTED = "planted"  # a module beside the run's folders, and one in each; importing it is a crime


class Bomb:
    """What runs where it is unpickled."""

    def __reduce__(self):
        return (os.system, ("echo pwned",))


PICKLED = pickle.dumps({"weights": Bomb()})


@dataclasses.dataclass(frozen=True)
class Hostile:
    """One run.

    Attributes:
        spoil: is given the run's folder and a folder outside of it.
        told: must be part of what is said.
        step: the step of the checkpoint that is restored; 0 where that is refused too.
        reads: "run" (restored, verified, gone on with) or "model" (loaded).
    """

    spoil: Callable[[Path, Path], Any]
    told: str
    step: int
    reads: str = "run"


HOSTILE: dict[str, Hostile] = {}


def case(name: str, told: str, step: int, spoil: Callable[[Path, Path], Any], reads: str = "run") -> None:
    assert name not in HOSTILE, name
    HOSTILE[name] = Hostile(spoil, told, step, reads)


def put(path: str, data: bytes) -> Callable[[Path, Path], Any]:
    return lambda run, outside: (run / path).write_bytes(data)


def sparse(path: str) -> Callable[[Path, Path], Any]:
    """A file of 2**40 bytes that takes none on the disk."""

    def spoil(run: Path, outside: Path) -> None:
        (run / path).touch()
        os.truncate(run / path, 2**40)

    return spoil


def linked(path: str) -> Callable[[Path, Path], Any]:
    """A link to the very content, outside."""

    def spoil(run: Path, outside: Path) -> None:
        shutil.move(run / path, outside / "there")
        (run / path).symlink_to(outside / "there")

    return spoil


def replaced(path: str, make: Callable[[Path], Any]) -> Callable[[Path, Path], Any]:
    """Something that is no file."""

    def spoil(run: Path, outside: Path) -> None:
        (run / path).unlink(missing_ok=True)
        make(run / path)

    return spoil


def fields_of(run: Path, path: str = LAST) -> dict[str, Any]:
    fields = json.loads((run / path).read_bytes())
    fields.pop("sha256")
    return fields


def sign(fields: dict[str, Any]) -> bytes:
    """Returns an entry's bytes with a true checksum, whatever its fields."""
    return entries._canonical({**fields, "sha256": hashlib.sha256(entries._canonical(fields)).hexdigest()})


def forged(path: str = LAST, **changes: Any) -> Callable[[Path, Path], Any]:
    return lambda run, outside: (run / path).write_bytes(sign({**fields_of(run), **changes}))


def edited(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], Any]:
    """The newest checkpoint's body changed, under a true checksum."""

    def spoil(run: Path, outside: Path) -> None:
        fields = fields_of(run)
        edit(fields["body"])
        (run / LAST).write_bytes(sign(fields))

    return spoil


def body(field: str, value: Any) -> Callable[[Path, Path], Any]:
    return edited(lambda body: body.__setitem__(field, value))


def receipt(field: str, value: Any) -> Callable[[Path, Path], Any]:
    return edited(lambda body: body["shards"][0].__setitem__(field, value))


def piece(field: str, value: Any) -> Callable[[Path, Path], Any]:
    return edited(lambda body: body["shards"][0]["pieces"][0].__setitem__(field, value))


def state(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], Any]:
    return edited(lambda body: edit(body["state"]))
