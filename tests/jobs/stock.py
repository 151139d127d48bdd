"""Jobs run by stock Keras on one process, or by SameStep inside a worker process, for tests to compare."""

import contextlib
import dataclasses
import io
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import service
from service.cluster import strategy
from service.cluster.notice import Notice
from service.storage.store import Store
from service.worker import perform


class Stock:
    """What a job sees as its worker, where stock Keras does all the work.

    Where Keras 3 has no such method or dies on an argument, it is written out here:
    generators by name, and a list of class weights as sample weights.
    """

    index, count, is_chief = 0, 1, True
    strategy = types.SimpleNamespace(scope=contextlib.nullcontext)

    def __init__(self, folder: str, seed: int, options: dict[str, Any]) -> None:
        self.folder, self.options = folder, options
        self.run = service.Run("stock", storage=folder, seed=seed, workers=0)
        self.model: Any = None

    def fit(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        self.model = model
        return model.fit(*args, **{"verbose": 0, **kwargs})

    def fit_generator(self, model: Any, generator: Any, max_queue_size: int, workers: int, **kwargs: Any) -> Any:
        return self.fit(model, generator, **kwargs)

    def steps(self, total: int, models: dict[str, Any], every: int) -> Iterator[int]:
        return iter(range(total))

    def predict(self, model: Any, x: Any, batch_size: int | None = None, verbose: Any = 0) -> Any:
        return keras.tree.map_structure(np.asarray, model(x, training=False))

    def evaluate(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        return model.evaluate(*args, **{"verbose": 0, **kwargs})

    def train_on_batch(self, model: Any, x: Any, y: Any, sample_weight: Any = None, class_weight: Any = None) -> Any:
        if class_weight is not None:
            given = sample_weight or [None] * len(y)
            sample_weight = [weigh(*output) for output in zip(y, given, class_weight, strict=True)]
        return model.train_on_batch(x, y, sample_weight)

    def open(self, path: str, mode: str = "r") -> Any:
        return io.BytesIO()


def weigh(y: np.ndarray, sample_weight: np.ndarray | None, class_weight: dict[int, float]) -> np.ndarray:
    """Returns [B] float32: each row's weight times that of its class, a number [B, 1] or one-hot [B, classes]."""
    classes = (y[:, 0] if y.shape[1] == 1 else y.argmax(1)).astype(int)
    return np.array([class_weight[label] for label in classes], "float32") * (1 if sample_weight is None else sample_weight)


def by_stock(job: Callable[[Any], Any], folder: str, options: dict[str, Any], seed: int = 5) -> dict[str, Any]:
    """Returns what the job returns and measured, trained by stock Keras in this process."""
    keras.utils.set_random_seed(seed)
    worker = Stock(folder, seed, options)
    returned = job(worker)
    return _plain(returned, worker.model)


def by_service(job: Callable[[Any], Any], folder: str, options: dict[str, Any], seed: int = 5) -> dict[str, Any]:
    """The same, trained by SameStep. Collective: every worker calls this."""
    left: list[Any] = []

    def noted(worker: Any) -> Any:
        left.append(job(worker))
        return left[0]

    run = service.Run("x", storage=folder, seed=seed)
    perform(noted, run, options, Store(folder), Notice())
    returned = left[0]
    return _plain(returned, getattr(returned, "model", None))


def _plain(returned: Any, model: Any) -> dict[str, Any]:
    history = getattr(returned, "history", {})
    metrics = returned if isinstance(returned, dict) else {name: values[-1] for name, values in history.items()}
    weights = [] if model is None else [np.asarray(w) for w in model.get_weights()]
    return {"history": history, "metrics": metrics, "weights": weights}


def options_of(options: Any) -> dict[str, Any]:
    """Returns a job's options as service.train is given them."""
    return dataclasses.asdict(options)
