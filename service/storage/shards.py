"""Tensors as content-hashed safetensors files."""

import hashlib
import json
import math
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from service.errors import Corrupt
from service.storage import layout, receipts
from service.storage.pieces import Piece
from service.storage.store import Store

Receipt = dict[str, Any]


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
            there in range, dtype, shape and content is referred to in its old file.

    Returns:
        The receipts of these pieces: see `receipts.check`. Those of all workers, put
        together by `receipts.merge`, are what the checkpoint's entry says.

    Raises:
        TypeError: when a tensor holds text or objects; nothing is written then.
    """
    known = {_identity(entry): receipt for receipt in previous for entry in receipt["pieces"]}
    kept: dict[str, Receipt] = {}
    fresh: dict[str, np.ndarray] = {}
    shapes: dict[str, str] = {}
    entries = []
    for piece in pieces:
        entry, values = _take(piece, tensors[piece.tensor])
        if (old := known.get(_identity(entry))) is not None:
            kept.setdefault(old["file"], {**old, "pieces": []})["pieces"].append(entry)
            continue
        key, shape = _stored_as(entry)
        if key in fresh:
            raise ValueError(f'two pieces would both be called "{key}" in the file. Rename the tensor.')
        fresh[key] = values.reshape(shape)
        if shape != entry["shape"]:
            shapes[key] = json.dumps(entry["shape"])
        entries.append(entry)
    if entries:
        kept["new"] = _write(store, attempt, fresh, shapes, entries)
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
        "sha256": hashlib.sha256(values.view(np.uint8).data).hexdigest(),
    }, values


def _identity(entry: dict[str, Any]) -> tuple:
    return (entry["tensor"], entry["begin"], entry["end"], entry["dtype"], tuple(entry["shape"]), entry["sha256"])


def _stored_as(entry: dict[str, Any]) -> tuple[str, list[int]]:
    """Returns a piece's name and shape in its file; a whole tensor keeps its own."""
    count = entry["end"] - entry["begin"]
    if count == math.prod(entry["shape"]):
        return entry["tensor"], entry["shape"]
    return f"{entry['tensor']}[{entry['begin']}:{entry['end']}]", [count]


def _write(
    store: Store, attempt: str, fresh: dict[str, np.ndarray], shapes: dict[str, str], entries: list[dict[str, Any]]
) -> Receipt:
    data = save(fresh, metadata=shapes or None)
    sha256 = hashlib.sha256(data).hexdigest()
    # Unique even for equal content: what a deletion removes is then never a file that a
    # save in flight has just written again.
    path = layout.shard(attempt, uuid.uuid4().hex, sha256)
    store.write(path, data)
    return {"file": path, "size": len(data), "sha256": sha256, "pieces": entries}


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
    try:
        header = json.loads(data[8:start])
        if not isinstance(header, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{store.url_of(file)}: its header cannot be read: {error}.") from error
    return header, start


def _view(store: Store, file: str, data: bytes, start: int, header: dict[str, Any], entry: dict[str, Any]) -> np.ndarray:
    """Returns a piece's elements in a file, if the header agrees with the receipt."""
    key, shape = _stored_as(entry)
    dtype, count = receipts.DTYPES[entry["dtype"]], entry["end"] - entry["begin"]
    found = header.get(key)
    if not isinstance(found, dict) or found.get("dtype") != entry["dtype"] or found.get("shape") != shape:
        raise Corrupt(f'{store.url_of(file)} holds {found!r:.200} as "{key}", and {entry["dtype"]} {shape} was committed.')
    offsets = found.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(receipts.is_whole, offsets)):
        raise Corrupt(f'{store.url_of(file)}: "{key}" has no place in the file.')
    begin, end = offsets
    if end - begin != count * dtype.itemsize or start + end > len(data):
        raise Corrupt(f'{store.url_of(file)}: "{key}" has bytes {begin} to {end}, and {count} elements were committed.')
    shapes = header.get("__metadata__")
    if shape != entry["shape"] and not (isinstance(shapes, dict) and shapes.get(key) == json.dumps(entry["shape"])):
        raise Corrupt(f'{store.url_of(file)}: "{key}" is of another tensor than of shape {entry["shape"]}.')
    return np.frombuffer(data, dtype, count, start + begin) if count else np.empty(0, dtype)
