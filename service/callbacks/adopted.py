"""Keras's own callbacks that write files do so as this package's, while a fit runs."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from service.callbacks.backup import BackupAndRestore
from service.callbacks.csv_logger import CSVLogger
from service.callbacks.model_checkpoint import ModelCheckpoint
from service.callbacks.tensorboard import TensorBoard

_OURS: dict[type, type] = {
    keras.callbacks.ModelCheckpoint: ModelCheckpoint,
    keras.callbacks.TensorBoard: TensorBoard,
    keras.callbacks.CSVLogger: CSVLogger,
    keras.callbacks.BackupAndRestore: BackupAndRestore,
}


@contextlib.contextmanager
def adopted(callbacks: Iterable[Any]) -> Iterator[None]:
    """Lets objects of exactly Keras's classes act as ours, which derive from them and keep their attributes.

    So what an author reads from the object afterwards, such as `checkpoint.best`, is what happened.
    A class of the author's own is left as it is.
    """
    taken = [(callback, type(callback)) for callback in callbacks if type(callback) in _OURS]
    for callback, stock in taken:
        callback.__class__ = _OURS[stock]
    try:
        yield
    finally:
        for callback, stock in taken:
            callback.__class__ = stock
