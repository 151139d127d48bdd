"""SameStep: N workers take the same step as one.

Names are handed on lazily: importing this package loads neither TensorFlow, Keras nor Ray.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.data.batches import epoch_order
    from service.job_command import command
    from service.methods import evaluate, fit, predict, test_on_batch, train_on_batch
    from service.run import Run
    from service.trainer import Result, train
    from service.training.models import load_model
    from service.worker import Worker

__all__ = [
    "Result",
    "Run",
    "Worker",
    "command",
    "epoch_order",
    "evaluate",
    "fit",
    "load_model",
    "predict",
    "test_on_batch",
    "train",
    "train_on_batch",
]

_HOMES = {
    "Result": "service.trainer",
    "Run": "service.run",
    "Worker": "service.worker",
    "command": "service.job_command",
    "epoch_order": "service.data.batches",
    "evaluate": "service.methods",
    "fit": "service.methods",
    "load_model": "service.training.models",
    "predict": "service.methods",
    "test_on_batch": "service.methods",
    "train": "service.trainer",
    "train_on_batch": "service.methods",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'service' has no attribute {name!r}; there is {', '.join(sorted(_HOMES))}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
