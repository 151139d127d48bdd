"""SameStep: N workers take the same step as one.

Names are handed on lazily: importing this package loads neither TensorFlow, Keras nor Ray.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.data.batches import epoch_order
    from service.methods import evaluate, fit, predict, test_on_batch, train_on_batch
    from service.run import Run

_HOMES = {
    "Run": "service.run",
    "epoch_order": "service.data.batches",
    "evaluate": "service.methods",
    "fit": "service.methods",
    "predict": "service.methods",
    "test_on_batch": "service.methods",
    "train_on_batch": "service.methods",
}
__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'service' has no attribute {name!r}; there is {', '.join(sorted(_HOMES))}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
