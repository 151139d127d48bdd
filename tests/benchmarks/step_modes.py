"""What one process of the step_time benchmark runs: the same network, data and metrics in each mode.

TensorFlow is imported inside functions: the parent needs none, and a process chooses its core and its threads first.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

BATCH = 256  # over all processes
STEPS_PER_BLOCK = {"mlp": 100, "cnn": 50}
WARM_UP_BLOCKS = 2
MEASURED_BLOCKS = 6
ACCURACY = "sparse_categorical_accuracy"


class Data(NamedTuple):
    """Real digits for one epoch, each step's batch after the other."""

    x: Any  # [steps * BATCH, 64] float32 in 0..1
    y: Any  # [steps * BATCH] int32


class BlockClock:
    """Takes the time at each boundary between blocks of steps."""

    def __init__(self, model: str) -> None:
        self.steps_per_block = STEPS_PER_BLOCK[model]
        self.steps = self.steps_per_block * (WARM_UP_BLOCKS + MEASURED_BLOCKS) + 1  # the last one ends the last block
        self.boundaries: list[float] = []
        self.loss = self.accuracy = float("nan")

    def before_step(self, step: int, weight: Any) -> None:
        if step % self.steps_per_block == 0:
            weight.numpy()  # waits for the last update: a loop that only queues its steps gains nothing
            self.boundaries.append(time.perf_counter())

    def report(self) -> dict[str, float]:
        blocks = [end - start for start, end in pairwise(self.boundaries[WARM_UP_BLOCKS:])]
        milliseconds = 1e3 * median(blocks) / self.steps_per_block
        return {"milliseconds": milliseconds, "loss": self.loss, "accuracy": self.accuracy}


def load_digits(steps: int) -> Data:
    import numpy as np
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    order = np.resize(np.arange(len(labels)), steps * BATCH)
    return Data((images[order] / 16).astype("float32"), labels[order].astype("int32"))


def build(keras: Any, model: str) -> Any:
    """Builds the same network from keras and from tf_keras."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    if model == "mlp":
        hidden = [layers.Dense(256, activation="relu"), layers.Dense(256, activation="relu")]
    else:
        hidden = [
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
        ]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10)])


def build_and_compile(keras: Any, model: str) -> Any:
    network = build(keras, model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(1e-3), loss, metrics=[ACCURACY])
    return network


def fit_arguments(keras: Any, data: Data, clock: BlockClock) -> dict[str, Any]:
    """The arguments of all fits. One epoch: stock Keras may idle for half a second between two, which no step does."""

    class Boundaries(keras.callbacks.Callback):
        # Either line spares the fit work that nobody asked for here: tf_keras fetches each step's logs for a batch hook
        # without this mark, Keras 3 gives up its asynchronous logs for a hook at the end of a batch, not at its begin.
        _supports_tf_logs = True

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            clock.before_step(batch, self.model.trainable_variables[-1])

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            clock.loss, clock.accuracy = float(logs["loss"]), float(logs[ACCURACY])

    hooks = [Boundaries()]
    return {"x": data.x, "y": data.y, "batch_size": BATCH, "epochs": 1, "shuffle": False, "verbose": 0, "callbacks": hooks}


def run_stock(model: str, data: Data, clock: BlockClock) -> None:
    import keras

    build_and_compile(keras, model).fit(**fit_arguments(keras, data, clock))


def run_ours(model: str, data: Data, clock: BlockClock) -> None:
    import keras

    import service

    service.fit(build_and_compile(keras, model), **fit_arguments(keras, data, clock))


def run_ours_connected(model: str, data: Data, clock: BlockClock) -> None:
    from service.cluster.strategy import connect

    strategy = connect()
    import keras

    import service

    with strategy.scope():
        network = build_and_compile(keras, model)
    service.fit(network, **fit_arguments(keras, data, clock))


def run_tf_keras(model: str, data: Data, clock: BlockClock) -> None:
    import tensorflow as tf
    import tf_keras

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        network = build_and_compile(tf_keras, model)
    network.fit(**fit_arguments(tf_keras, data, clock))


def run_raw(model: str, data: Data, clock: BlockClock) -> None:
    """A loop as a careful author writes it for this one network, with nothing in it that the network does not need."""
    import keras
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        network = build(keras, model)
        weights = network.trainable_variables
        optimizer = keras.optimizers.Adam(1e-3)
        optimizer.build(weights)
        # Summed over the processes when read, at the end; Keras 3's own metrics would be summed in every step.
        local = {"trainable": False, "synchronization": tf.VariableSynchronization.ON_READ}
        loss_sum, hits = (tf.Variable(0.0, aggregation=tf.VariableAggregation.SUM, **local) for _ in range(2))
    losses_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")

    def replica_step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            logits = network(x, training=True)
            loss = tf.reduce_sum(losses_of(y, logits)) / BATCH
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        loss_sum.assign_add(loss * BATCH)
        hits.assign_add(tf.reduce_sum(tf.cast(tf.argmax(logits, -1, tf.int32) == y, tf.float32)))

    @tf.function
    def step(x: Any, y: Any) -> None:
        strategy.run(replica_step, args=(x, y))

    processes, index = strategy.num_replicas_in_sync, strategy.cluster_resolver.task_id
    # Each process holds its rows of every global batch, cut into batches beforehand.
    own_x = data.x.reshape(clock.steps, processes, -1, 64)[:, index]
    own_y = data.y.reshape(clock.steps, processes, -1)[:, index]
    for number, (x, y) in enumerate(tf.data.Dataset.from_tensor_slices((own_x, own_y)).prefetch(2)):
        clock.before_step(number, weights[-1])
        step(x, y)
    rows = clock.steps * BATCH
    clock.loss, clock.accuracy = float(loss_sum.read_value()) / rows, float(hits.read_value()) / rows


class Mode(NamedTuple):
    run: Callable[[str, Data, BlockClock], None]
    processes: int


MODES = {
    "stock-1": Mode(run_stock, 1),
    "ours-1": Mode(run_ours, 1),
    "ours-2": Mode(run_ours_connected, 2),
    "raw-2": Mode(run_raw, 2),
    "tf_keras-2": Mode(run_tf_keras, 2),
}


def main(mode: str, model: str, index: int) -> None:
    """Measures on core `index`, prints the report as a line of JSON and stays until the parent lets go."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[index % len(cores)]})
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    clock = BlockClock(model)
    MODES[mode].run(model, load_digits(clock.steps), clock)
    print(json.dumps(clock.report()), flush=True)
    # A chief that leaves first takes its coordination service with it, and the others die before they have reported.
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
