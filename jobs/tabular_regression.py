"""Two numbers of a patient predicted at once, from batches that a PyDataset makes.

Of scikit-learn's 442 diabetes patients, how far the disease has gone after a year and
the blood's glucose now are predicted from the other measurements. Batches come from a
keras.utils.PyDataset with dicts of targets and of weights; compile says how much each
output's loss counts.
"""

import dataclasses
import sys
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_diabetes

import service

HELD_OUT = 92


@dataclasses.dataclass(frozen=True)
class Options:
    """How the network is built and trained.

    Attributes:
        epochs: the last epoch; the same name with more epochs trains the rest.
        batch_size: patients in one step, over all workers together.
        hidden: units in each hidden layer.
        learning_rate: the learning rate of Adam.
        glucose: how much the loss of the glucose counts beside that of the progression.
        far: how much more a patient counts whose disease has gone further than most.
    """

    epochs: int = 15
    batch_size: int = 32
    hidden: int = 16
    learning_rate: float = 0.003
    glucose: float = 0.3
    far: float = 1.5


class Patients(keras.utils.PyDataset):
    """Batches of (x, y, sample_weight), the last one with what is left.

    A batch is a function of its number, so every worker can make it, and an attempt that goes on asks
    for those that are left alone.

    Args:
        x: [N, 9] measurements.
        y: name of output: [N, 1] target.
        far: how much more a patient counts whose progression is above the mean.
    """

    def __init__(self, x: np.ndarray, y: dict[str, np.ndarray], batch_size: int, far: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.x, self.y, self.batch_size = x, y, batch_size
        self.weights = np.where(y["progression"][:, 0] > 0, far, 1.0).astype("float32")

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        weights = self.weights[rows]
        return self.x[rows], {name: y[rows] for name, y in self.y.items()}, {"progression": weights, "glucose": weights**0}


def patients() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns nine measurements [442, 9] and two targets [442, 1] each, with mean 0 and variance 1."""
    table, progression = load_diabetes(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(table))

    def scaled(columns: np.ndarray) -> np.ndarray:
        return ((columns - columns.mean(0)) / columns.std(0))[order].astype("float32")

    return scaled(table[:, :-1]), {"progression": scaled(progression[:, None]), "glucose": scaled(table[:, -1:])}


def split(options: Options) -> tuple[Patients, Patients]:
    """Returns the patients to train by, and those held out, which all count alike."""
    x, y = patients()
    old, new = slice(HELD_OUT, None), slice(HELD_OUT)
    return (
        Patients(x[old], {name: part[old] for name, part in y.items()}, options.batch_size, options.far),
        Patients(x[new], {name: part[new] for name, part in y.items()}, options.batch_size, 1.0),
    )


def build(options: Options) -> keras.Model:
    """Returns the compiled network, from measurements [B, 9] to a dict of [B, 1]."""
    layers = keras.layers
    x = keras.Input((9,), name="measurements")
    hidden = layers.Dense(options.hidden, "relu")(x)
    hidden = layers.Dropout(0.2)(layers.Dense(options.hidden, "relu")(hidden))
    outputs = {name: layers.Dense(1, name=name)(hidden) for name in ("progression", "glucose")}
    model = keras.Model(x, outputs, name="tabular_regression")
    model.compile(
        keras.optimizers.Adam(options.learning_rate, weight_decay=0.01),
        loss={"progression": "mse", "glucose": "mse"},
        loss_weights={"progression": 1.0, "glucose": options.glucose},
        metrics={"progression": ["r2_score"], "glucose": ["r2_score"]},
    )
    return model


def train(worker: service.Worker) -> keras.callbacks.History:
    """Trains the network; every worker calls this."""
    options = Options(**worker.options)
    training, held_out = split(options)
    with worker.strategy.scope():
        model = build(options)
    return worker.fit(model, training, epochs=options.epochs, validation_data=held_out)


if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="tabular-regression"))
