"""The smallest complete job, to copy: wines told apart by what is in them.

Copy this file, put your own data, model and options where it says so, and it is a
command: python -m jobs.NAME --help.
"""

import dataclasses
import sys

import keras
import numpy as np
from sklearn.datasets import load_wine

import service


# YOUR OPTIONS: each field is an option of the command, its line below is its help.
@dataclasses.dataclass(frozen=True)
class Options:
    """How the classifier is built and trained.

    Attributes:
        epochs: the last epoch; the same name with more epochs trains the rest.
        batch_size: rows in one step, over all workers together.
        hidden: units in the hidden layer.
        learning_rate: the learning rate of Adam.
    """

    epochs: int = 20
    batch_size: int = 16
    hidden: int = 16
    learning_rate: float = 0.01


# YOUR DATA: all of them, the same on every worker, in the same order.
def data() -> tuple[np.ndarray, np.ndarray]:
    """Returns what is in 178 wines, [178, 13], and which of three growers they are from, [178]."""
    x, y = load_wine(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(y))
    return ((x - x.mean(0)) / x.std(0))[order].astype("float32"), y[order].astype("int32")


# YOUR MODEL: built and compiled as always.
def build(options: Options) -> keras.Model:
    """Returns the compiled model."""
    model = keras.Sequential(
        [
            keras.Input((13,)),
            keras.layers.Dense(options.hidden, "relu"),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(options.learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(worker: service.Worker) -> keras.callbacks.History:
    """Trains the model; every worker calls this."""
    options = Options(**worker.options)
    x, y = data()
    with worker.strategy.scope():  # where models are made
        model = build(options)
    # model.fit(x, y, ...) becomes worker.fit(model, x, y, ...), with the same arguments.
    return worker.fit(model, x, y, batch_size=options.batch_size, epochs=options.epochs, validation_split=0.2)


if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="template"))
