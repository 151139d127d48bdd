"""What a checkpoint tells of a training, checked before any of it is put back."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.errors import Corrupt
from service.storage import receipts
from service.storage.restore import Restored
from service.training import plain


def check(found: Restored) -> None:
    """Raises Corrupt unless a checkpoint's entry has what `state.snapshot` and its stage put there."""
    body = found.entry.body
    try:
        _check_kinds(body, identity=dict, state=dict)
        if not receipts.is_whole(body.get("batch")):
            raise ValueError(f"its batch is {body.get('batch')!r:.100}")
        state = body["state"]
        _check_kinds(state, trained=dict, callbacks=list, random=dict)
        if body["identity"].get("kind") != "steps":  # a loop written by hand stops itself
            _check_kinds(state, stopping=bool)
        for names in state["trained"].values():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("what an optimizer trained is no list of names")
        _check_callbacks(state["callbacks"], found.tensors)
        _check_random(**state["random"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Corrupt(f"Checkpoint {found.entry.number} is damaged: {error}.") from error


def _check_kinds(values: Mapping[str, Any], **kinds: type) -> None:
    for name, kind in kinds.items():
        if not isinstance(values.get(name), kind):
            raise ValueError(f"its {name} is {values.get(name)!r:.100}")


def _check_callbacks(callbacks: list[Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Raises unless each callback's state can be unpacked, and takes no tensor twice: it would grow without end."""
    left = _Once(tensors)
    for callback in callbacks:
        _check_kinds(callback, state=dict)
        if not isinstance(callback.get("class"), str):
            raise ValueError(f"a callback's class is {callback.get('class')!r:.100}")
        plain.unpack(callback["state"], left)


class _Once(dict[str, np.ndarray]):
    """Tensors of which each can be asked for once, and none is copied."""

    def __getitem__(self, name: str) -> np.ndarray:
        return self.pop(name).reshape(-1)[:0]


def _check_random(python: list[Any], numpy: list[Any]) -> None:
    """Raises unless these are states of the generators; NumPy's own setter believes any position (numpy 2, _mt19937.pyx)."""
    version, words, gauss = python
    if version != 3 or len(base64.b64decode(words, validate=True)) != 4 * 625 or not isinstance(gauss, float | None):
        raise ValueError("Python's generator has another state")
    keys, position, has_gauss, cached = numpy
    if (
        len(base64.b64decode(keys, validate=True)) != 4 * 624
        or not receipts.is_whole(position, 0, 624)
        or has_gauss not in (0, 1)
        or not isinstance(cached, float)
    ):
        raise ValueError("NumPy's generator has another state")
