"""Keras's callbacks, safe on many workers, with Keras 2's arguments too.

Names are handed on lazily: importing this package loads neither TensorFlow nor Keras.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras.callbacks import (
        Callback,
        CallbackList,
        History,
        LambdaCallback,
        ProgbarLogger,
        RemoteMonitor,
        SwapEMAWeights,
        TerminateOnNaN,
    )

    from service.callbacks.backup import BackupAndRestore
    from service.callbacks.csv_logger import CSVLogger
    from service.callbacks.early_stopping import EarlyStopping
    from service.callbacks.learning_rate import LearningRateScheduler, ReduceLROnPlateau
    from service.callbacks.model_checkpoint import ModelCheckpoint
    from service.callbacks.safe import chief_only
    from service.callbacks.tensorboard import TensorBoard

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "RemoteMonitor",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
    "chief_only",
]

_HOMES = {
    "BackupAndRestore": "service.callbacks.backup",
    "CSVLogger": "service.callbacks.csv_logger",
    "EarlyStopping": "service.callbacks.early_stopping",
    "LearningRateScheduler": "service.callbacks.learning_rate",
    "ModelCheckpoint": "service.callbacks.model_checkpoint",
    "ReduceLROnPlateau": "service.callbacks.learning_rate",
    "TensorBoard": "service.callbacks.tensorboard",
    "chief_only": "service.callbacks.safe",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'service.callbacks' has no attribute {name!r}; there is {', '.join(sorted(__all__))}")
    return getattr(importlib.import_module(_HOMES.get(name, "keras.callbacks")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
