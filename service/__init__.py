"""SameStep: N workers take the same step as one.

Names are handed on lazily: importing this package loads neither TensorFlow, Keras nor Ray.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.data.batches import epoch_order
    from service.exact.marks import batch_mean
    from service.exact.normalization import local_statistics
    from service.exact.shares import share
    from service.job_command import command
    from service.keras2 import compile
    from service.methods import evaluate, fit, predict, test_on_batch, train_on_batch
    from service.run import Run
    from service.trainer import Result, train
    from service.training.models import load_model
    from service.worker import Worker

__all__ = [
    "Result",
    "Run",
    "Worker",
    "batch_mean",
    "command",
    "compile",
    "epoch_order",
    "evaluate",
    "fit",
    "load_model",
    "local_statistics",
    "predict",
    "share",
    "test_on_batch",
    "train",
    "train_on_batch",
]

_HOMES = {
    "Result": "service.trainer",
    "Run": "service.run",
    "Worker": "service.worker",
    "batch_mean": "service.exact.marks",
    "command": "service.job_command",
    "compile": "service.keras2",
    "epoch_order": "service.data.batches",
    "evaluate": "service.methods",
    "fit": "service.methods",
    "load_model": "service.training.models",
    "local_statistics": "service.exact.normalization",
    "predict": "service.methods",
    "share": "service.exact.shares",
    "test_on_batch": "service.methods",
    "train": "service.trainer",
    "train_on_batch": "service.methods",
}


def __getattr__(name: str) -> Any:
    if name == "callbacks":
        return importlib.import_module("service.callbacks")
    if name not in _HOMES:
        raise AttributeError(f"module 'service' has no attribute {name!r}; there is {', '.join(sorted(_HOMES))}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "callbacks"])
