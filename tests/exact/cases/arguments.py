"""The arguments of fit and compile, and the forms of data."""

from typing import Any

import keras
import numpy as np
from keras import layers

from tests.exact.cases.small import ROWS, case, cases, dense, labels, numbers, positive_weights, predicting, rare, regression
from tests.exact.models import Case, uneven_weights


def _held_out(*weights: Any) -> tuple[Any, ...]:
    """Nine rows to validate by, in batches of 8 and 1."""
    return (numbers(4, seed=5)[:9], numbers(2, seed=6)[:9], *weights)


@rare
def part_for_validation() -> Case:
    """The last rows validate: 14 to train in batches of 8 and 6, 3 to validate."""
    return regression(metrics=["mae"], fit={"validation_split": 0.15})


@rare
def pair_for_validation() -> Case:
    """Validation data without weights, while training has some."""
    fit = {"validation_data": _held_out(), "sample_weight": uneven_weights(ROWS)}
    return regression(weighted_metrics=["mae"], fit=fit)


@rare
def triple_for_validation() -> Case:
    """Validation data with weights, while training has none."""
    fit = {"validation_data": _held_out(np.array([1.0, 0, 0, 0, 5, 0.1, 30, 2, 7]))}
    return regression(keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"), weighted_metrics=["mae"], fit=fit)


@rare
def validation_now_and_then() -> Case:
    """Validation after the second of three epochs, in batches of its own size."""
    fit = {"validation_data": _held_out(), "validation_freq": 2, "validation_batch_size": 4}
    return _changed(regression(fit=fit, metrics=["mae"]), epochs=3)


@rare
def validation_after_named_epochs() -> Case:
    """Validation after the first and third of three epochs."""
    return _changed(regression(fit={"validation_data": _held_out(), "validation_freq": [1, 3]}), epochs=3)


@rare
def later_first_epoch() -> Case:
    """Training that begins at epoch 3 of 5."""
    return _changed(regression(fit={"initial_epoch": 3}), epochs=5)


@rare
def batch_larger_than_the_data() -> Case:
    """One batch an epoch, smaller than asked for."""
    return _changed(regression(metrics=["mae"]), batch_size=100)


@rare
def batches_of_one_row() -> Case:
    """Every replica but one is always idle."""
    return _first(5, regression(metrics=["mae"]), batch_size=1)


def fewer_rows_than_replicas() -> Case:
    """Two rows in all, one batch."""
    return _first(2, regression(metrics=["mae"]))


def _first(rows: int, kept: Case, **changes: Any) -> Case:
    return _changed(kept, **{name: kept.arguments[name][:rows] for name in ("x", "y", "sample_weight")}, **changes)


def _changed(kept: Case, **changes: Any) -> Case:
    return kept._replace(arguments=kept.arguments | changes)


@rare
def inputs_in_a_list() -> Case:
    """Two inputs in a list, one of whole numbers."""
    one, other = keras.Input((4,)), keras.Input((2,), dtype="int32")
    joined = layers.Concatenate()([one, layers.Flatten()(layers.Embedding(5, 2)(other))])
    model = keras.Model([one, other], layers.Dense(2)(joined))
    return case(model, [numbers(4), labels(5, 2)], numbers(2, seed=2), fit={"sample_weight": uneven_weights(ROWS)})


@rare
def inputs_in_a_dict() -> Case:
    """Inputs and targets by name, out of order."""
    one, other = keras.Input((4,), name="one"), keras.Input((2,), name="other")
    hidden = layers.Dense(3, "tanh")(layers.Concatenate()([other, one]))
    model = keras.Model({"other": other, "one": one}, {"b": layers.Dense(1)(hidden), "a": layers.Dense(2)(hidden)})
    x = {"one": numbers(4), "other": numbers(2, seed=7)}
    return predicting(case(model, x, {"a": numbers(2, seed=2), "b": numbers(1, seed=3)}, {"a": "mse", "b": "mae"}))


@rare
def bytes_and_booleans() -> Case:
    """Pictures of bytes and targets that are true or false."""
    x = labels(256, 3, 3, 1).astype("uint8")
    stack = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(1)]
    model = keras.Sequential([keras.Input((3, 3, 1), dtype="uint8"), *stack])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return case(model, x, labels(2, 1).astype(bool), loss, metrics=["accuracy"])


@rare
def a_vector_of_targets() -> Case:
    """Targets of shape [n] for outputs of shape [n, 1]: Keras lines them up."""
    return case(dense(1), numbers(4), numbers(seed=2), fit={"sample_weight": uneven_weights(ROWS)}, metrics=["mae"])


class Unbuilt(keras.Model):
    """A subclass that knows its shapes only when it sees data, and what training is."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.drop, self.last = layers.Dense(5, "tanh"), layers.Dropout(0.4, seed=2), layers.Dense(2)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.last(self.drop(self.hidden(inputs), training=training))


@rare
def a_subclass() -> Case:
    """A model that is not built when fit is called."""
    return predicting(case(Unbuilt(), numbers(4), numbers(2, seed=2), fit={"sample_weight": uneven_weights(ROWS)}))


@rare
def a_model_in_a_model() -> Case:
    """A model used as a layer, twice."""
    inner = dense(4, "tanh")
    inputs = keras.Input((4,))
    return case(keras.Model(inputs, layers.Dense(1)(inner(inner(inputs)))), numbers(4), numbers(1, seed=2))


def eager() -> Case:
    """Every step run without a graph, with weights, a regularizer and a metric of one number a batch."""

    def largest(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.max(keras.ops.abs(y_true - y_pred))

    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "tanh", kernel_regularizer="l2"), layers.Dense(2)])
    fit = {"sample_weight": positive_weights()}
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    return case(model, numbers(4), numbers(2, seed=2), loss, fit=fit, metrics=[largest, "mae"], run_eagerly=True)


CASES, RARE = cases(__name__)
