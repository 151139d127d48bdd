"""Streams of every kind over the same 45 rows, trained with stock Keras and with service.fit, or in attempts at a run."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import service
from service.attempt import Attempt
from service.cluster import strategy
from service.cluster.consensus import Council
from service.cluster.notice import Notice
from service.run import Run
from service.storage.store import Store
from tests.attempts import Interrupt, Interrupted
from tests.exact.parity import Difference, Trained, difference

ROWS, SIZE = 45, 8
X = np.random.RandomState(0).randn(ROWS, 6, 3)
Y = X.sum(axis=(1, 2))[:, None] + np.random.RandomState(1).randn(ROWS, 1)
WEIGHTS = np.random.RandomState(2).gamma(0.5, 2.0, ROWS)


class Items(keras.utils.PyDataset):
    """Batches by number; the last one is short. On some workers the numbers may differ."""

    def __len__(self) -> int:
        return -(-ROWS // SIZE)

    def __getitem__(self, place: int) -> tuple[Any, Any, Any]:
        rows = slice(place * SIZE, (place + 1) * SIZE)
        time.sleep(0.001 * (place % 2))  # so that threads finish in another order
        return X[rows], Y[rows], WEIGHTS[rows]


class Reordered(Items):
    """Draws another order of the rows after each epoch, from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.random = np.random.RandomState(3)
        self.order = np.arange(ROWS)

    def __getitem__(self, place: int) -> tuple[Any, Any, Any]:
        rows = self.order[place * SIZE : (place + 1) * SIZE]
        return X[rows], Y[rows], WEIGHTS[rows]

    def on_epoch_end(self) -> None:
        self.order = self.random.permutation(ROWS)


def generator(batches: int | None = None, long: bool = False) -> Iterator[tuple[Any, Any, Any]]:
    """Yields batches of 1 to 13 rows, endless unless told; `long` ones differ in their number of steps."""
    random = np.random.RandomState(4)
    made = 0
    while batches is None or made < batches:
        rows = random.randint(0, ROWS, random.randint(1, 14))
        steps = random.randint(2, 7) if long else 6
        yield X[rows][:, :steps], Y[rows], WEIGHTS[rows]
        made += 1


def dataset(seed: int | None = None) -> tf.data.Dataset:
    """Returns a pipeline over the rows, shuffled with a seed."""
    rows = tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS))
    if seed is not None:
        rows = rows.shuffle(ROWS, seed=seed)
    return rows.map(lambda x, y, w: (x * 2.0, y, w), num_parallel_calls=2).batch(SIZE).prefetch(1)


def unweighed() -> tf.data.Dataset:
    """Returns a pipeline of which each worker maps its own rows alone."""
    rows = tf.data.Dataset.from_tensor_slices((X, Y)).map(lambda x, y: (x * 2.0, y)).map(lambda x, y: (x, y + 1.0))
    return rows.batch(SIZE)


def held_out() -> tuple[Any, Any]:
    """Returns arrays to validate by."""
    return X[:11], Y[:11]


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "tf.data": lambda: dict(x=dataset(), epochs=2, validation_data=held_out(), validation_batch_size=4),
    "tf.data, own rows": lambda: dict(x=unweighed(), epochs=2, validation_data=unweighed()),
    "tf.data, shuffled": lambda: dict(x=dataset(7), epochs=3),
    "tf.data, epochs inside a pass": lambda: dict(x=dataset(7), epochs=4, steps_per_epoch=4),
    "tf.data, endless": lambda: dict(
        x=dataset(7).repeat(), epochs=3, steps_per_epoch=4, validation_data=dataset().repeat(), validation_steps=3
    ),
    "PyDataset": lambda: dict(x=Items(), epochs=2, shuffle=False, validation_data=Items()),
    "PyDataset, threads": lambda: dict(x=Items(workers=3, max_queue_size=2), epochs=2, shuffle=False),
    "PyDataset, reordered": lambda: dict(x=Reordered(), epochs=3, shuffle=False),
    "generator": lambda: dict(x=generator(), epochs=3, steps_per_epoch=4, validation_data=dataset()),
    "generator, lengths that differ": lambda: dict(x=generator(long=True), epochs=2, steps_per_epoch=5),
    "generator, class weights": lambda: dict(x=labelled(), epochs=2, steps_per_epoch=5, class_weight={0: 0.5, 1: 4.0}),
    "arrays, epochs inside a pass": lambda: dict(
        x=X, y=Y, sample_weight=WEIGHTS, batch_size=SIZE, epochs=5, steps_per_epoch=4, shuffle=False
    ),
}


def labelled(weighed: bool = False) -> Iterator[tuple[Any, ...]]:
    """Yields batches with two classes for targets; `weighed` as class_weight={0: 0.5, 1: 4.0} would."""
    for x, y, _ in generator():
        labels = (y > 0).astype("int64")
        yield (x, labels, np.where(labels[:, 0] == 1, 4.0, 0.5)) if weighed else (x, labels)


def build() -> Any:
    """Returns a model for rows of any length, with noise and statistics."""
    keras.utils.set_random_seed(5)
    hidden = layers.BatchNormalization()(layers.Dense(4, "tanh")(inputs := keras.Input((None, 3))))
    model = keras.Model(inputs, layers.Dense(1)(layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(hidden))))
    model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"], weighted_metrics=["mse"])
    return model


def _trained(model: Any, history: Any) -> Trained:
    values = [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]
    return Trained(values, history.history, [])


# Keras makes an iterator too many after each epoch, and calls on_epoch_end twice, so its orders are others.
COMPARED = [kind for kind in KINDS if kind not in ("tf.data, shuffled", "PyDataset, reordered")]


def compare(kind: str, changes: dict[str, Any] | None = None) -> Difference | None:
    """Returns how far service.fit ends from stock Keras on one device. Collective: every worker calls this."""
    model = build()
    mine = _trained(model, service.fit(model, **{**KINDS[kind](), **(changes or {})}, verbose=0))
    if Council(strategy.connected()).index != 0:
        return None
    other = build()
    arguments = KINDS[kind]()
    if arguments.pop("class_weight", None):  # which Keras refuses beside a generator
        arguments["x"] = labelled(weighed=True)
    return difference(_trained(other, other.fit(**arguments, verbose=0)), mine)


def tested(kind: str) -> tuple[Any, Any, Any, Any]:
    """Returns our and Keras's evaluation and predictions of a stream. Collective: every worker calls this."""
    model = build()
    steps = KINDS[kind]().get("steps_per_epoch")
    ours = service.evaluate(model, KINDS[kind]()["x"], steps=steps, verbose=0)
    predicted = service.predict(model, KINDS[kind]()["x"], steps=steps, verbose=0)
    stock = build()
    return (
        *(ours, stock.evaluate(KINDS[kind]()["x"], steps=steps, verbose=0)),
        *(predicted, stock.predict(KINDS[kind]()["x"], steps=steps, verbose=0)),
    )


def attempt(url: str, kind: str, moment: tuple[str, int, int] | None) -> Any:
    """Makes one attempt at a run on a stream; returns what it left. Collective: every worker calls this."""
    keras.utils.set_random_seed(5)
    made = Attempt(Run("test", storage=url, seed=5, save_every_steps=2), Store(url), strategy.connect(), Notice())
    model = build()
    try:
        history = made.fit(model, **{**KINDS[kind](), "shuffle": True}, verbose=0, callbacks=[Interrupt(moment)])
    except Interrupted as interrupted:
        made.abandon()
        return str(interrupted)
    made.finish(None, {})
    return _trained(model, history)


def apart(problem: str) -> None:
    """Trains on a pipeline that is another one on worker 1. Collective: every worker calls this."""
    mine = Council(strategy.connected()).index == 1
    pipelines = {
        "longer": lambda: dataset().take(6 if mine else 4),
        "other rows": lambda: dataset(8 if mine else 7),
        "its own generator": lambda: generator(9 if mine else 8),
        "another PyDataset": lambda: Reordered() if mine else Items(),
    }
    service.fit(build(), pipelines[problem](), epochs=2, verbose=0, same_everywhere=True)


def ends(batches: int, **arguments: Any) -> dict[str, list[float]]:
    """Returns the history of training on a generator that ends. Collective: every worker calls this."""
    return service.fit(build(), generator(batches), verbose=0, **arguments).history


def raises_in(batch: int) -> None:
    """Trains on a generator that raises where only the chief runs it. Collective: every worker calls this."""

    def broken() -> Iterator[Any]:
        for number, item in enumerate(generator()):
            if number == batch:
                raise KeyError("no such file")
            yield item

    service.fit(build(), broken(), steps_per_epoch=9, verbose=0)
