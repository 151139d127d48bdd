"""Tensors as content-hashed safetensors files."""

import hashlib
import json
import math
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from service.errors import Corrupt
from service.storage import documents, layout, receipts
from service.storage.pieces import Piece
from service.storage.places import Buffer
from service.storage.store import Store

Receipt = dict[str, Any]

_SAMPLE = 1024  # elements
_SMALL = 65536  # bytes, hashed in no time


def write_shards(
    store: Store,
    attempt: str,
    tensors: Mapping[str, np.ndarray],
    pieces: Iterable[Piece],
    previous: Iterable[Receipt] = (),
) -> list[Receipt]:
    """Writes pieces of tensors into one new file, except those that an older file holds.

    Args:
        store: the run's.
        attempt: whose work this is; part of the file's name.
        tensors: each tensor whole. Only those that `pieces` names are asked for, one by
            one, so a mapping may fetch them from a device when asked.
        pieces: what to write, from `pieces.share`.
        previous: the receipts of the last committed checkpoint. A piece that is the same
            there in range, dtype, shape and content is referred to in its old file. (One
            that has only just stopped changing is written once more: a large piece's
            content is hashed when a sample of it has stayed the same.)

    Returns:
        The receipts of these pieces: see `receipts.check`. Those of all workers, put
        together by `receipts.merge`, are what the checkpoint's entry says.

    Raises:
        TypeError: when a tensor holds text or objects; nothing is written then.
    """
    known = {_range(entry): (receipt, entry) for receipt in previous for entry in receipt["pieces"]}
    kept: dict[str, Receipt] = {}
    fresh: dict[str, np.ndarray] = {}
    entries = []
    for piece in pieces:
        entry, values = _take(piece, tensors[piece.tensor])
        receipt, old = known.get(_range(entry), ({}, {}))
        if values.nbytes <= _SMALL or old.get("sample") in (None, entry["sample"]):  # else it has changed for certain
            entry["sha256"] = _sha256(values)
        if entry["sha256"] is not None and entry["sha256"] == old.get("sha256"):
            kept.setdefault(receipt["file"], {**receipt, "pieces": []})["pieces"].append(entry)
            continue
        key, _ = _stored_as(entry)
        if key in fresh:
            raise ValueError(f'two pieces would both be called "{key}" in the file. Rename the tensor.')
        fresh[key] = values
        entries.append(entry)
    if entries:
        kept["new"] = _write(store, attempt, fresh, entries)
    return [*kept.values()]


def read_tensors(store: Store, wanted: list[Receipt]) -> dict[str, np.ndarray]:
    """Returns the tensors of a checkpoint, every byte verified.

    A tensor that is whole in one file is a read-only view of that file's bytes, so that
    restoring takes little more memory than the tensors themselves.

    Raises:
        Corrupt: naming the file and what differs from its receipt.
    """
    try:
        receipts.check(wanted)
    except ValueError as error:
        raise Corrupt(f"The receipts of {store.url}: {error}.") from error
    for receipt in wanted:  # before any of it is read or allocated
        _check_size(store, receipt)
    tensors: dict[str, np.ndarray] = {}
    for receipt in wanted:
        data = _read_verified(store, receipt)
        header, start = _parse(store, receipt["file"], data)
        for entry in receipt["pieces"]:
            values = _view(store, receipt["file"], data, start, header, entry)
            if entry["end"] - entry["begin"] == math.prod(entry["shape"]):
                tensors[entry["tensor"]] = values.reshape(entry["shape"])
            else:
                if entry["tensor"] not in tensors:
                    tensors[entry["tensor"]] = np.empty(entry["shape"], values.dtype)
                tensors[entry["tensor"]].reshape(-1)[entry["begin"] : entry["end"]] = values
    return tensors


def _take(piece: Piece, tensor: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Returns a piece's entry in a receipt, and its elements as one contiguous row."""
    try:
        dtype = receipts.dtype_name(tensor.dtype)
    except TypeError as error:
        raise TypeError(f'tensor "{piece.tensor}" has dtype {tensor.dtype}: {error}') from error
    values = np.ascontiguousarray(tensor.reshape(-1)[piece.begin : piece.end])
    return {
        "tensor": piece.tensor,
        "begin": piece.begin,
        "end": piece.end,
        "dtype": dtype,
        "shape": list(tensor.shape),
        "sample": _sha256(np.ascontiguousarray(values[:: max(1, len(values) // _SAMPLE)])),
        "sha256": None,
    }, values


def _sha256(values: np.ndarray) -> str:
    return hashlib.sha256(values.view(np.uint8).data).hexdigest()


def _range(entry: dict[str, Any]) -> tuple:
    return (entry["tensor"], entry["begin"], entry["end"], entry["dtype"], tuple(entry["shape"]))


def _stored_as(entry: dict[str, Any]) -> tuple[str, list[int]]:
    """Returns a piece's name and shape in its file; a whole tensor keeps its own."""
    count = entry["end"] - entry["begin"]
    if count == math.prod(entry["shape"]):
        return entry["tensor"], entry["shape"]
    return f"{entry['tensor']}[{entry['begin']}:{entry['end']}]", [count]


def _write(store: Store, attempt: str, fresh: dict[str, np.ndarray], entries: list[dict[str, Any]]) -> Receipt:
    """Writes a safetensors file from where its tensors lie: the library's own writer copies them all first."""
    entries.sort(key=lambda entry: (-receipts.DTYPES[entry["dtype"]].itemsize, entry["tensor"], entry["begin"]))
    values = [fresh[_stored_as(entry)[0]].view(np.uint8).data for entry in entries]
    parts: list[Buffer] = [_header(entries), *values]
    content = hashlib.sha256()
    for part in parts:
        content.update(part)
    sha256 = content.hexdigest()
    # Unique even for equal content: what a deletion removes is then never a file that a
    # save in flight has just written again.
    path = layout.shard(attempt, uuid.uuid4().hex, sha256)
    store.write(path, *parts)
    return {"file": path, "size": sum(len(part) for part in parts), "sha256": sha256, "pieces": entries}


def _header(entries: list[dict[str, Any]]) -> bytes:
    """Returns what a safetensors file of these pieces, in this order, begins with.

    Its size in 8 bytes, then JSON, padded so that the first tensor is aligned
    (https://github.com/huggingface/safetensors, "Format"). A part of a tensor is a row of its
    elements there, and the metadata tells the whole tensor's shape.
    """
    header: dict[str, Any] = {}
    shapes = {}
    place = 0
    for entry in entries:
        key, shape = _stored_as(entry)
        size = (entry["end"] - entry["begin"]) * receipts.DTYPES[entry["dtype"]].itemsize
        header[key] = {"dtype": entry["dtype"], "shape": shape, "data_offsets": [place, place + size]}
        place += size
        if shape != entry["shape"]:
            shapes[key] = json.dumps(entry["shape"])
    if shapes:
        header["__metadata__"] = shapes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _check_size(store: Store, receipt: Receipt) -> None:
    try:
        size = store.size(receipt["file"])
    except FileNotFoundError as error:
        raise Corrupt(f"{store.url_of(receipt['file'])} is missing.") from error
    if size != receipt["size"]:
        raise Corrupt(f"{store.url_of(receipt['file'])} has {size} bytes, and {receipt['size']} were committed.")


def _read_verified(store: Store, receipt: Receipt) -> bytes:
    try:
        data = store.read(receipt["file"])
    except FileNotFoundError as error:
        raise Corrupt(f"{store.url_of(receipt['file'])} is missing.") from error
    if (sha256 := hashlib.sha256(data).hexdigest()) != receipt["sha256"]:
        raise Corrupt(f"{store.url_of(receipt['file'])} has sha256 {sha256}, and {receipt['sha256']} was committed.")
    return data


def _parse(store: Store, file: str, data: bytes) -> tuple[dict[str, Any], int]:
    """Returns a safetensors file's header and where its tensors start.

    The library's own reader copies every tensor, and has no bfloat16 for numpy
    (safetensors 0.8, numpy.py:131).
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = documents.parse(data[8:start], f"{store.url_of(file)}: its header")
    try:
        _check_places([about["data_offsets"] for key, about in header.items() if key != "__metadata__"], len(data) - start)
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{store.url_of(file)}: its header is damaged: {error}.") from error
    return header, start


def _check_places(places: list[Any], size: int) -> None:
    """Raises ValueError unless tensors at [begin, end) lie end to end over all of a file's `size` bytes."""
    reached = 0
    for place in sorted(places):
        if not isinstance(place, list) or len(place) != 2 or not all(map(receipts.is_whole, place)):
            raise ValueError(f"{place!r:.100} is no place of a tensor")
        if place[0] != reached or place[1] < reached:
            raise ValueError(f"a tensor has the bytes from {place[0]} to {place[1]}, and the one before ends at {reached}")
        reached = place[1]
    if reached != size:
        raise ValueError(f"its tensors end at {reached}, and the file has {size} bytes of them")


def _view(store: Store, file: str, data: bytes, start: int, header: dict[str, Any], entry: dict[str, Any]) -> np.ndarray:
    """Returns a piece's elements in a file, if the header agrees with the receipt."""
    key, shape = _stored_as(entry)
    dtype, count = receipts.DTYPES[entry["dtype"]], entry["end"] - entry["begin"]
    found = header.get(key)
    if not isinstance(found, dict) or found.get("dtype") != entry["dtype"] or found.get("shape") != shape:
        raise Corrupt(f'{store.url_of(file)} holds {found!r:.200} as "{key}", and {entry["dtype"]} {shape} was committed.')
    begin, end = found["data_offsets"]
    if end - begin != count * dtype.itemsize:
        raise Corrupt(f'{store.url_of(file)}: "{key}" has bytes {begin} to {end}, and {count} elements were committed.')
    shapes = header.get("__metadata__")
    if shape != entry["shape"] and not (isinstance(shapes, dict) and shapes.get(key) == json.dumps(entry["shape"])):
        raise Corrupt(f'{store.url_of(file)}: "{key}" is of another tensor than of shape {entry["shape"]}.')
    return np.frombuffer(data, dtype, count, start + begin) if count else np.empty(0, dtype)
