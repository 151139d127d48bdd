"""What training puts back, and run.json, as somebody else has written them."""

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.storage import layout
from tests.storage.hostile.cases import PICKLED, body, case, edited, linked, put, replaced, sparse, state


def random_state(name: str, place: int, value: Any) -> Callable[[Path, Path], Any]:
    return state(lambda state: state["random"][name].__setitem__(place, value))


def take_twice(state: dict[str, Any]) -> None:
    known = state["callbacks"][0]["state"]
    known["again"] = [known["trace"]] * 1000


CHECKPOINT = "Checkpoint 3 is damaged"
for name, spoil in {
    "no generators": state(lambda state: state.pop("random")),
    "a generator's position far outside": random_state("numpy", 1, 2**31 - 1),
    "a generator's position below 0": random_state("numpy", 1, -5),
    "a generator of two words": random_state("numpy", 0, base64.b64encode(bytes(8)).decode()),
    "a generator of a pickle": random_state("python", 1, base64.b64encode(PICKLED).decode()),
    "a generator of version 2": random_state("python", 0, 2),
    "one tensor a thousand times": state(take_twice),
    "a tensor that is not there": state(lambda state: state["callbacks"][0]["state"].update(trace={"$tensor": "../x"})),
    "callbacks that are no list": state(lambda state: state.update(callbacks={"class": "os:system"})),
    "a callback without a state": state(lambda state: state["callbacks"][0].pop("state")),
    "a trained variable that is no name": state(lambda state: state.update(trained={"": [3]})),
    "no identity": edited(lambda body: body.pop("identity")),
    "a batch of text": body("batch", "1"),
}.items():
    case(f"a state with {name}", CHECKPOINT, 0, spoil)


def record(**changes: Any) -> Callable[[Path, Path], Any]:
    def spoil(run: Path, outside: Path) -> None:
        (run / layout.RUN).write_text(json.dumps({**json.loads((run / layout.RUN).read_bytes()), **changes}))

    return spoil


RUN = f"{layout.RUN} is damaged"
for name, data in {
    "a pickle": PICKLED,
    "code": b"__import__('os').system('echo pwned')",
    "a list": b"[]",
    "lists in lists": b"[" * 100_000,
    "no UTF-8": b"\xff\xfe",
    "an object with a key twice": b'{"seed": 1, "seed": 2}',
    "an object with NaN": b'{"seed": NaN}',
    "an object with 1e999": b'{"seed": 1e999}',
    "an object without a seed": b'{"run": {}, "job": null, "options": {}}',
}.items():
    case(f"run.json is {name}", RUN, 2, put(layout.RUN, data))
case("run.json is 2**40 bytes", RUN, 2, sparse(layout.RUN))
case("run.json is a link", f"{layout.RUN} is a link", 2, linked(layout.RUN))
case("run.json is a pipe", f"{layout.RUN} is no plain file", 2, replaced(layout.RUN, os.mkfifo))
for field, value in (("seed", "1"), ("seed", True), ("options", []), ("run", "x"), ("job", {"$class": "os:system"})):
    case(f"run.json's {field} is {value!r}", RUN, 2, record(**{field: value}))
