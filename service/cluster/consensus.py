"""One worker decides; every worker hears the same answer."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from service.cluster.strategy import PlainStrategy
from service.errors import WorkersDiffer


class Council:
    """The worker processes of a run, talking in small numbers between steps.

    Every method is collective: every worker calls it, in the same order, or all of them wait.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None) -> None:
        self._strategy = strategy if isinstance(strategy, PlainStrategy) else None
        self.count = self._strategy.num_replicas_in_sync if self._strategy else 1
        self.index = self._strategy.cluster_resolver.task_id if self._strategy else 0
        self._sums = {
            dtype: tf.function(self._reduce, input_signature=[tf.TensorSpec([None], dtype)], autograph=False)
            for dtype in ("int64", "float64")
        }

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Returns [workers, n]: every worker's [n] float64 or int64 values, in order."""
        if self._strategy is None:
            return values[None]
        placed = np.zeros((self.count, *values.shape), values.dtype)
        placed[self.index] = values
        return self._sum(placed)

    def any(self, answer: bool) -> bool:
        """Returns whether any worker says yes."""
        return bool(self.gather(np.array([int(answer)])).any())

    def chief(self, value: Any) -> Any:
        """Returns the chief's value, anything JSON can hold; the others' is not looked at."""
        if self._strategy is None:
            return value
        told = json.dumps(value).encode() if self.index == 0 else b""
        length = int(self.from_chief(np.array([len(told)]))[0])
        padded = np.zeros(length, np.int64)
        padded[: len(told)] = np.frombuffer(told, np.uint8)
        return json.loads(self.from_chief(padded).astype(np.uint8).tobytes())

    def texts(self, text: str, longest: int = 120) -> list[str]:
        """Returns every worker's text, cut at so many bytes, in order."""
        told = text.encode()[:longest].ljust(longest, b"\0")
        return [
            row.astype(np.uint8).tobytes().rstrip(b"\0").decode(errors="replace")
            for row in self.gather(np.frombuffer(told, np.uint8).astype(np.int64))
        ]

    def from_chief(self, values: np.ndarray) -> np.ndarray:
        """Returns the chief's [n] int64 values; the others give as many, which are not looked at."""
        if self._strategy is None:
            return values
        return self._sum(values if self.index == 0 else np.zeros_like(values))

    def check_same(self, things: Mapping[str, np.ndarray], fix: str) -> None:
        """Compares the workers' hashes of arrays that all must hold alike.

        Raises:
            WorkersDiffer: on every worker, naming the things and the workers whose hash is not the chief's.
        """
        if self._strategy is None or not things:
            return
        digests = np.stack([digest(value) for value in things.values()])
        everyone = self.gather(digests)
        wrong = {
            name: [worker for worker in range(self.count) if not np.array_equal(everyone[worker, i], everyone[0, i])]
            for i, name in enumerate(things)
        }
        found = [f"{name} (workers {', '.join(map(str, workers))})" for name, workers in wrong.items() if workers]
        if found:
            raise WorkersDiffer(f"Differs from the chief's, worker 0: {'; '.join(found)}. {fix}")

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Returns the sum of what every worker gives, in one traced function for arrays of any shape."""
        return self._sums[values.dtype.name](tf.constant(values.reshape(-1))).numpy().reshape(values.shape)

    def _reduce(self, placed: Any) -> Any:
        def reduce(part: Any) -> Any:
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(part))

        return self._strategy.run(reduce, args=(placed,))  # type: ignore[union-attr]  # called with a strategy only


def digest(array: np.ndarray) -> np.ndarray:
    """Returns [4] int64, the SHA-256 of an array's shape, type and content."""
    content = hashlib.sha256(repr((array.shape, str(array.dtype))).encode())
    content.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return np.frombuffer(content.digest(), np.int64)


class Mailbox:
    """Messages between workers that no training step waits for, for threads beside the training.

    They go through the key-value store of TensorFlow's coordination service, which lives as
    long as the workers do. A key is written once.
    """

    def post(self, key: str, value: Any) -> None:
        """Leaves a value, anything JSON can hold, under a key that nobody used before."""
        context.context().set_config_key_value(key, json.dumps(value))

    def take(self, key: str) -> Any:
        """Waits until some worker posts under the key, and takes the value away."""
        value = json.loads(context.context().get_config_key_value(key))
        context.context().delete_config_key_value(key)
        return value
