"""A model.keras from a storage, checked before Keras opens it."""

import io
import stat
import zipfile

import h5py

from service.errors import Corrupt, StorageError
from service.storage import documents, urls

_WEIGHTS = "model.weights.h5"


def check(data: bytes, what: str) -> None:
    """Raises Corrupt unless the bytes are such an archive as Keras writes.

    Keras 3.15 writes its members as they are, uncompressed, and so the tensors in them: what
    is read out of an archive is then never more than the archive. Its own guards begin at 4 GiB
    (saving_lib.py:448 and 1236).
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_members(archive.infolist(), len(data))
            documents.parse(archive.read("config.json"), f"{what}: its config.json", may_be_infinite=True)
            _check_tensors(archive.read(_WEIGHTS))
    # zipfile raises the last two for members that are encrypted, or compressed in a way that Python does not know.
    except (StorageError, zipfile.BadZipFile, KeyError, ValueError, OSError, RuntimeError, NotImplementedError) as error:
        raise error if isinstance(error, Corrupt) else Corrupt(f"{what} is damaged: {error}.") from error


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise ValueError("it has a member twice")
    for member in members:
        urls.check_path(member.filename.removesuffix("/"))
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"its member {member.filename!r:.100} is a link")
    if (held := sum(member.file_size for member in members)) > size:
        raise ValueError(f"its members have {held} bytes, and all of it has {size}")


def _check_tensors(data: bytes) -> None:
    """Raises ValueError where weights are not all in their file, each once and whole."""
    held = 0

    def visit(group: h5py.Group) -> None:
        nonlocal held
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{group.name}/{name} of its weights is a link")
            match group[name]:
                case h5py.Group() as below:
                    visit(below)
                case h5py.Dataset() as tensor if not tensor.external and not tensor.is_virtual:
                    held += tensor.nbytes
                    if tensor.dtype.hasobject or held > len(data):
                        raise ValueError(f"{tensor.name} of its weights has {tensor.nbytes} bytes, and the file {len(data)}")
                case _:
                    raise ValueError(f"{group.name}/{name} of its weights is in another file")

    with h5py.File(io.BytesIO(data)) as file:
        visit(file)
