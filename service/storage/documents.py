"""A run's JSON files, read strictly: an object, each key once, numbers that can be held."""

import json
import math
from typing import Any, NoReturn

from service.errors import Corrupt
from service.storage.store import Store

MOST_BYTES = 64 * 2**20  # they tell of tensors and code, and hold neither


def read(store: Store, path: str) -> dict[str, Any]:
    """Returns the object that a file holds.

    Raises:
        Corrupt: naming the file and what is wrong with it.
        FileNotFoundError: there is no such file.
    """
    if (size := store.size(path)) > MOST_BYTES:
        raise Corrupt(f"{store.url_of(path)} is damaged: it has {size} bytes, and no such file has above {MOST_BYTES}.")
    return parse(store.read(path), store.url_of(path))


def parse(data: bytes, what: str, may_be_infinite: bool = False) -> dict[str, Any]:
    """Returns the object that bytes are; Corrupt says what is wrong with `what`.

    With `may_be_infinite`, NaN and Infinity are numbers, as Python's json writes them.
    """
    numbers: dict[str, Any] = {} if may_be_infinite else {"parse_constant": _refuse, "parse_float": _finite}
    try:
        value = json.loads(data.decode(), object_pairs_hook=_once, **numbers)
        if not isinstance(value, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{what} is damaged: {error}.") from error
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has {name!r:.100} twice")
        found[name] = value
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text:.100} is no number that can be held")
    return number
