"""What a checkpoint says of each file of tensors, checked before it is believed."""

import itertools
import math
import re
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

from service.storage import layout
from service.storage.pieces import Piece, check_cover

# numpy's dtypes by safetensors' names for them.
DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
}
_PIECE = {"tensor", "begin", "end", "dtype", "shape", "sample", "sha256"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST = 2**50  # bytes or elements; above, a product could leave the range of C's integers


def dtype_name(dtype: np.dtype) -> str:
    """Returns safetensors' name of a dtype, or raises TypeError."""
    for name, known in DTYPES.items():
        if known == dtype:
            return name
    raise TypeError(f"expected numbers of one of these dtypes: {', '.join(str(known) for known in DTYPES.values())}")


def is_whole(value: Any, least: int = 0, most: int = _MOST) -> bool:
    """Whether a value from JSON is a whole number of the range."""
    return type(value) is int and least <= value <= most


def is_sha256(value: Any) -> bool:
    """Whether a value from JSON is a SHA-256 in hexadecimal."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def check(receipts: Any) -> None:
    """Raises ValueError unless the receipts are well formed and hold each tensor exactly once.

    A receipt is a JSON object of one file: its path ("file"), "size", "sha256" and
    "pieces", which are the pieces that are wanted from it (the file may hold others):
    each with "tensor", "begin", "end", the whole tensor's "dtype" and "shape", the SHA-256
    of a "sample" of the piece's elements, and the "sha256" of all its bytes, or null where
    the sample differed from the last checkpoint's.
    """
    if not isinstance(receipts, list):
        raise ValueError(f"shards is {type(receipts).__name__}, expected a list")
    for receipt in receipts:
        _check_file(receipt)
    files = [receipt["file"] for receipt in receipts]
    if len(set(files)) < len(files):
        raise ValueError("a file has two receipts")
    entries = [entry for receipt in receipts for entry in receipt["pieces"]]
    kinds: dict[str, tuple[str, list[int]]] = {}
    for entry in entries:
        kind = (entry["dtype"], entry["shape"])
        if kinds.setdefault(entry["tensor"], kind) != kind:
            raise ValueError(f'tensor "{entry["tensor"]}": its pieces differ in dtype or shape')
    check_cover(map(piece_of, entries), {name: math.prod(shape) for name, (_, shape) in kinds.items()})


def merge(parts: Iterable[Iterable[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns the receipts of several workers as one list that names each file once."""
    merged: dict[str, dict[str, Any]] = {}
    for receipt in itertools.chain.from_iterable(parts):
        merged.setdefault(receipt["file"], {**receipt, "pieces": []})["pieces"].extend(receipt["pieces"])
    return [*merged.values()]


def piece_of(entry: dict[str, Any]) -> Piece:
    """Returns which piece a receipt's entry is of."""
    return Piece(entry["tensor"], entry["begin"], entry["end"])


def files(receipts: Iterable[dict[str, Any]]) -> set[str]:
    """Returns the paths of the files that receipts name."""
    return {receipt["file"] for receipt in receipts}


def _check_file(receipt: Any) -> None:
    if not isinstance(receipt, dict) or set(receipt) != {"file", "size", "sha256", "pieces"}:
        raise ValueError("a receipt is not an object of file, size, sha256 and pieces")
    file, size, pieces = receipt["file"], receipt["size"], receipt["pieces"]
    if not isinstance(file, str) or layout.attempt_of(file) is None:
        raise ValueError(f"{file!r:.200} is no path of a file of tensors")
    if not is_whole(size) or not is_sha256(receipt["sha256"]):
        raise ValueError(f"{file}: its size or sha256 is malformed")
    if not layout.is_named_by(file, receipt["sha256"]):
        raise ValueError(f"{file}: its name is not that of the content with sha256 {receipt['sha256']}")
    if not isinstance(pieces, list) or not pieces:
        raise ValueError(f"{file}: no pieces are wanted from it")
    for entry in pieces:
        _check_piece(file, entry)
    held = sum((entry["end"] - entry["begin"]) * DTYPES[entry["dtype"]].itemsize for entry in pieces)
    if held > size:
        raise ValueError(f"{file}: pieces of {held} bytes cannot be in a file of {size}")


def _check_piece(file: str, entry: Any) -> None:
    if not isinstance(entry, dict) or set(entry) != _PIECE:
        raise ValueError(f"{file}: a piece is not an object of {', '.join(sorted(_PIECE))}")
    shape = entry["shape"]
    if not isinstance(entry["tensor"], str) or not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise ValueError(f"{file}: a piece's tensor or dtype is malformed")
    if not isinstance(shape, list) or len(shape) > 32 or not all(map(is_whole, shape)):
        raise ValueError(f'{file}: the shape of "{entry["tensor"]:.200}" is malformed')
    if not is_sha256(entry["sample"]) or not (entry["sha256"] is None or is_sha256(entry["sha256"])):
        raise ValueError(f'{file}: the sample or sha256 of "{entry["tensor"]:.200}" is malformed')
    count = math.prod(shape)
    # numpy counts the bytes of an empty tensor without its empty dimensions.
    if (
        math.prod(size or 1 for size in shape) > _MOST
        or not is_whole(entry["begin"])
        or not is_whole(entry["end"], entry["begin"], count)
    ):
        raise ValueError(f'{file}: the piece of "{entry["tensor"]:.200}" is not within the tensor')
    if entry["begin"] == entry["end"] and count:
        raise ValueError(f'{file}: a piece of "{entry["tensor"]:.200}" is empty')
