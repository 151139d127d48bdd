"""What single steps and batches do on several workers; run inside worker processes."""

import hashlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import service
from service.cluster import strategy
from service.cluster.consensus import Council
from service.data.sources import Arrays
from service.exact import group
from service.training.prepare import build, step_for
from tests.exact import parity

X = np.random.RandomState(0).randn(20, 4)
Y = X.sum(1, keepdims=True)


def index() -> int:
    """Returns which worker this is."""
    return Council(strategy.connected()).index


def small(seed: int = 3) -> Any:
    """Returns a compiled model of one layer."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    return model


def collectives(name: str) -> dict[str, int]:
    """Returns how many collectives a case's training and test step hold, and its train_on_batch of another."""
    case = parity.made(name)
    data = Arrays(*(case.arguments.get(key) for key in parity.DATA))
    build(case.model, data.like)
    step = step_for(case.model, group.of(strategy.connected()), data.like)
    return {kind: _count(getattr(step, kind).get_concrete_function().graph) for kind in ("train", "test")}


def _count(graph: tf.Graph) -> int:
    functions = [function.graph for function in graph._functions.values()] if hasattr(graph, "_functions") else []
    return sum(op.type == "CollectiveReduceV2" for g in (graph, *functions) for op in g.get_operations())


class Logs(keras.callbacks.Callback):
    """Keeps every batch's and epoch's logs, and may stop in a batch."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.stop_at = stop_at

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append((batch, dict(logs)))
        if batch == self.stop_at:
            self.model.stop_training = True

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(("test", batch, dict(logs)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(("epoch", epoch, dict(logs)))


def logs_of(name: str) -> list[Any]:
    """Returns all logs that callbacks saw on this worker."""
    case, logs = parity.made(name), Logs()
    service.fit(case.model, **case.arguments, shuffle=False, verbose=0, callbacks=[logs])
    return logs.seen


def stops(worker: int, batch: int) -> tuple[int, int, list[np.ndarray]]:
    """Trains until `worker` stops in `batch`; returns batches seen, optimizer steps, all variables."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), layers.Dropout(0.5, seed=1), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    logs = Logs(stop_at=batch if index() == worker else None)
    service.fit(model, X, Y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=[logs])
    batches = [entry for entry in logs.seen if isinstance(entry[0], int)]
    return len(batches), int(model.optimizer.iterations.numpy()), [keras.ops.convert_to_numpy(v) for v in model.variables]


def stock_steps(count: int) -> list[np.ndarray]:
    """Returns the variables of the same model after `count` steps of stock Keras."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), layers.Dropout(0.5, seed=1), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(X[: 4 * count], Y[: 4 * count], batch_size=4, shuffle=False, verbose=0)
    return [keras.ops.convert_to_numpy(v) for v in model.variables]


def other_weights() -> None:
    """Trains models that began with other weights on each worker."""
    service.fit(small(seed=index()), X, Y, verbose=0)


class OwnRate(keras.callbacks.Callback):
    """Sets a learning rate that depends on the worker."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = 0.1 / (1 + index())


def other_rates() -> None:
    """Trains with a callback that sets another learning rate on each worker."""
    service.fit(small(), X, Y, verbose=0, callbacks=[OwnRate()])


class BatchSum(layers.Layer):
    """Adds the sum over the batch, which no replica can tell from a mean."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(ops.sum(ops.square(inputs)))
        return inputs


def batch_sum() -> None:
    """Trains a model with a loss that is no mean over rows."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2), BatchSum()])
    model.compile("sgd", loss=None)
    service.fit(model, X, batch_size=8, verbose=0)


class Counting(layers.Layer):
    """Counts the rows that it is called with."""

    def build(self, shape: Any) -> None:
        self.rows = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, inputs: Any) -> Any:
        self.rows.assign(self.rows + ops.cast(ops.shape(inputs)[0], self.rows.dtype))
        return inputs


def shared_work() -> tuple[list[float], str, int]:
    """Returns evaluate's result, the hash of predict's, and how many rows this worker's model saw in predicting 20."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), Counting(), layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    predictions = service.predict(model, X, batch_size=10, verbose=0)
    seen = int(model.layers[0].rows.numpy())
    model.layers[0].rows.assign(0)  # evaluate compares the workers' variables
    result = service.evaluate(model, X, Y, batch_size=10, verbose=0)
    return result, hashlib.sha256(predictions.tobytes()).hexdigest(), seen


def in_shuffled_order() -> float:
    """Returns how far a shuffled fit is from stock Keras fed with the rows in the documented order."""
    model = small()
    service.fit(model, X, Y, batch_size=6, epochs=3, verbose=0)
    oracle = small()
    for epoch in range(3):
        order = service.epoch_order(20, 3, epoch, shuffle=True, batch_size=6)
        oracle.fit(X[order], Y[order], batch_size=6, shuffle=False, verbose=0)
    return max(float(np.abs(a - b).max()) for a, b in zip(oracle.get_weights(), model.get_weights(), strict=True))


def on_batches() -> tuple[Any, Any]:
    """Returns (ours, stock Keras's) results of train_on_batch and test_on_batch, odd batches included."""

    def run(fit: Any, test: Any) -> list[Any]:
        model = small()
        return [
            fit(model, X[:7], Y[:7], return_dict=True),
            fit(model, X[7:8], Y[7:8]),
            test(model, X[8:], Y[8:], return_dict=True),
        ]

    stock = run(keras.Model.train_on_batch, keras.Model.test_on_batch)
    return run(service.train_on_batch, service.test_on_batch), stock


def output_losses() -> dict[str, list[float]]:
    """Returns the history of the case with two outputs."""
    return parity.ours("tests.exact.models:two_outputs").history
