"""Class weights of two outputs and losses of one number a batch, on several workers; run inside worker processes."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

import service
from tests.exact.models import Case, uneven_weights
from tests.exact.parity import DATA, Difference, Trained, difference, made, ours
from tests.exact.steps import index

CLASSES = np.random.RandomState(3).randint(0, 4, 25)
VALID = np.random.RandomState(4).randint(0, 2, 25)
BY_CLASS = [{0: 0.2, 1: 3.0}, {1: 5.0, 3: 0.5}]
BY_HAND = [np.where(VALID == 1, 3.0, 0.2), np.array([1.0, 5.0, 1.0, 0.5])[CLASSES]]


def discriminator() -> Case:
    """The two-headed discriminator of a semi-supervised GAN, one reduction an output."""
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, "tanh")(inputs)
    outputs = [layers.Dense(1, "sigmoid", name="valid")(hidden), layers.Dense(4, "softmax", name="label")(hidden)]
    model = keras.Model(inputs, outputs)
    losses = ["binary_crossentropy", keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")]
    model.compile(keras.optimizers.Adam(0.02), losses, loss_weights=[0.5, 0.5], weighted_metrics=[["mae"], ["accuracy"]])
    x = np.random.RandomState(0).randn(25, 6)
    return Case(model, dict(x=x, y=[VALID[:, None], CLASSES], batch_size=8))


def by_class(given: Any, sample_weight: Any = None) -> Difference | None:
    """Returns how far class weights are from stock Keras with the weights made by hand. Collective: every worker calls this."""
    result = ours(f"{__name__}:discriminator", class_weight=given, sample_weight=sample_weight)
    case = made(f"{__name__}:discriminator")
    ones = np.ones(25) if sample_weight is None else sample_weight
    weights = [(by_hand * ones) for by_hand in BY_HAND]
    return _from_stock(case, result, sample_weight=weights)


def by_class_on_a_batch() -> tuple[Any, Any]:
    """Returns (ours, stock Keras's) logs of two steps, ours with a list of class weights."""
    mine, stock = made(f"{__name__}:discriminator"), made(f"{__name__}:discriminator")
    given, expected = [], []
    for rows in (slice(0, 16), slice(16, 25)):
        x, y = mine.arguments["x"][rows], [part[rows] for part in mine.arguments["y"]]
        given += service.train_on_batch(mine.model, x, y, class_weight=BY_CLASS)
        stock.model.reset_metrics()
        expected += stock.model.train_on_batch(x, y, sample_weight=[part[rows] for part in BY_HAND])
    return given, expected


def steps() -> Case:
    """One weight a sample on a loss a step."""
    x = np.random.RandomState(0).randn(13, 6, 2)
    model = keras.Sequential([keras.Input((6, 2)), layers.Dense(4, "tanh"), layers.Dense(1)])
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.Adam(0.02), loss, weighted_metrics=["mae"])
    y = np.random.RandomState(1).randn(13, 6, 1)
    return Case(model, dict(x=x, y=y, sample_weight=np.abs(uneven_weights(13)) + 0.01, batch_size=6))


def one_weight_for_all_steps() -> Difference | None:
    """Returns how far [rows] weights are from stock Keras with them repeated for each step. Collective."""
    result, case = ours(f"{__name__}:steps"), made(f"{__name__}:steps")
    return _from_stock(case, result, sample_weight=np.repeat(case.arguments["sample_weight"][:, None], 6, axis=1))


@service.batch_mean
def mean_number(y_true: Any, y_pred: Any) -> Any:
    """One number for a batch, a plain mean."""
    return ops.mean(ops.square(y_true - y_pred))


@service.batch_mean
def largest_number(y_true: Any, y_pred: Any) -> Any:
    """One number for a batch, and no mean: the mark is false."""
    return ops.max(ops.abs(y_true - y_pred))


def marked() -> Case:
    """A loss of one number a batch, marked, with a regularizer and weights."""
    x = np.random.RandomState(0).randn(25, 6)
    regularizer = keras.regularizers.L2(0.01)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "tanh", kernel_regularizer=regularizer), layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.02, clipnorm=0.5), mean_number, metrics=["mae"])
    return Case(model, dict(x=x, y=x[:, :2] + 1.0, batch_size=8, epochs=3))


def marked_and_weighted() -> Case:
    """The same with sample weights, which scale the batch's number."""
    case = marked()
    return Case(case.model, {**case.arguments, "sample_weight": uneven_weights(25)})


def falsely_marked(method: str) -> list[np.ndarray]:
    """Trains with a false mark, by fit or train_on_batch. Collective: every worker calls this."""
    case = made(f"{__name__}:marked")
    case.model.compile(keras.optimizers.SGD(0.1), largest_number)
    rows = [case.arguments[name] for name in DATA[:2]]
    if method == "fit":
        service.fit(case.model, *rows, batch_size=8, verbose=0)
    else:
        service.train_on_batch(case.model, *rows)
    return case.model.get_weights()


def _from_stock(case: Case, result: Trained, **changes: Any) -> Difference | None:
    if index() != 0:
        return None
    arguments = {**case.arguments, **changes}
    history = case.model.fit(**arguments, shuffle=False, verbose=0).history
    predictions = case.model.predict(case.arguments["x"], batch_size=arguments["batch_size"], verbose=0)
    variables = [*case.model.variables, *case.model.optimizer.variables]
    values = [keras.ops.convert_to_numpy(v) for v in variables]
    return difference(Trained(values, history, keras.tree.flatten(predictions)), result)
