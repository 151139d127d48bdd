"""Jobs run by stock Keras on one process, or by SameStep in worker processes, for tests to compare."""

import contextlib
import io
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import service
from service.cluster import strategy
from service.cluster.notice import Notice
from service.errors import JobFailed
from service.storage.store import Store
from service.worker import perform


class Stock:
    """What a job sees as its worker, where stock Keras does all the work.

    What Keras 3 lacks is written out: Keras 2's fit_generator, and class weights for several outputs.
    """

    index, count, is_chief = 0, 1, True
    strategy = types.SimpleNamespace(scope=contextlib.nullcontext)

    def __init__(self, folder: str, seed: int, options: dict[str, Any]) -> None:
        self.folder, self.options = folder, options
        self.run = service.Run("stock", storage=folder, seed=seed, workers=0)

    def fit(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        return model.fit(*args, **kwargs, verbose=0)

    def fit_generator(self, model: Any, generator: Any, max_queue_size: int, workers: int, **kwargs: Any) -> Any:
        return model.fit(generator, **kwargs, verbose=0)

    def steps(self, total: int, models: dict[str, Any], every: int) -> Iterator[int]:
        return iter(range(total))

    def predict(self, model: Any, x: Any, **how: Any) -> Any:
        return keras.tree.map_structure(keras.ops.convert_to_numpy, model(x, training=False))

    def train_on_batch(self, model: Any, x: Any, y: Any, sample_weight: Any = None, class_weight: Any = None) -> Any:
        if class_weight is not None:
            given = sample_weight or [None] * len(y)
            sample_weight = [weigh(*output) for output in zip(y, given, class_weight, strict=True)]
        return model.train_on_batch(x, y, sample_weight)

    def open(self, path: str, mode: str) -> Any:
        return io.BytesIO()


def weigh(y: np.ndarray, sample_weight: np.ndarray | None, class_weight: dict[int, float]) -> np.ndarray:
    """Returns [B] float32: each row's weight times that of its class, a number [B, 1] or one-hot [B, classes]."""
    classes = (y[:, 0] if y.shape[1] == 1 else y.argmax(1)).astype(int)
    return np.array([class_weight[label] for label in classes], keras.config.floatx()) * (
        1 if sample_weight is None else sample_weight
    )


class Watched:
    """A worker that notes which models a job trains, and can die before a step of a loop by hand."""

    def __init__(self, worker: Any, fit: dict[str, Any], stop_before: int | None) -> None:
        self.worker, self.extra, self.stop_before = worker, fit, stop_before
        self.models: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.worker, name)

    def fit(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        self.models.append(model)
        return self.worker.fit(model, *args, **kwargs, **self.extra)

    def fit_generator(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        self.models.append(model)
        return self.worker.fit_generator(model, *args, **kwargs)

    def steps(self, total: int, models: dict[str, Any], every: int) -> Iterator[int]:
        self.models += models.values()
        for step in self.worker.steps(total, models, every):
            if step == self.stop_before:
                self.worker._attempt.abandon()
                raise RuntimeError(f"died before step {step}")
            yield step


def by_stock(
    job: Callable[[Any], Any], folder: str, options: dict[str, Any], fit: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Returns what the job returned and the weights it trained, by stock Keras; `fit` is added to fit's arguments."""
    keras.utils.set_random_seed(5)
    strategy.be_deterministic()
    worker = Watched(Stock(folder, 5, options), fit or {}, None)
    return _left(job(worker), worker.models)


def by_service(
    job: Callable[[Any], Any],
    folder: str,
    options: dict[str, Any],
    fit: dict[str, Any] | None = None,
    stop_before: int | None = None,
) -> dict[str, Any] | str:
    """The same by SameStep, or "died" where the job did. Collective: every worker calls this."""
    left: list[Any] = []

    def watched(worker: Any) -> Any:
        watching = Watched(worker, fit or {}, stop_before)
        returned = job(watching)
        left.append(_left(returned, watching.models))
        return returned

    try:
        perform(watched, service.Run("x", storage=folder, seed=5), options, Store(folder), Notice())
    except JobFailed:
        if stop_before is None:
            raise
        return "died"
    return left[0]


def _left(returned: Any, models: list[Any]) -> dict[str, Any]:
    variables = [v for model in models for v in (*model.variables, *model.optimizer.variables)]
    return {
        "returned": returned if isinstance(returned, dict) else returned.history,
        "variables": [keras.ops.convert_to_numpy(v) for v in variables],
    }


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Returns the largest difference of variables, each beside its largest entry or 1."""
    pairs = zip(one["variables"], other["variables"], strict=True)
    return max(float(np.abs(a - b).max(initial=0) / max(1, np.abs(a).max(initial=0))) for a, b in pairs if a.dtype.kind == "f")
