"""Weights of outputs and classes, and losses of one number a batch, mean on two workers what they mean on one device."""

import keras
import numpy as np
import pytest

import service
from service.errors import ModelInvalid
from service.training import models
from tests.exact import parity, steps, weighted
from tests.processes import WorkerFailed

processes = pytest.mark.processes
FLOAT64 = 1e-9
HERE = "tests.exact.weighted"


@pytest.fixture(scope="module")
def two(two_double):
    return two_double


@processes
@pytest.mark.parametrize(
    ("given", "sample_weight"),
    [
        (weighted.BY_CLASS, None),
        ({"valid": weighted.BY_CLASS[0], "label": weighted.BY_CLASS[1]}, np.linspace(0.0, 3.0, 25)),
    ],
    ids=["a list", "by output name, times sample weights"],
)
def test_class_weights_of_two_outputs_are_weights_made_by_hand(two, given, sample_weight):
    assert max(two.call(weighted.by_class, given, sample_weight)[0]) <= FLOAT64


@processes
def test_class_weights_of_two_outputs_count_in_single_batches(two):
    ours, stock = two.call(weighted.by_class_on_a_batch)[0]
    assert ours == pytest.approx(stock, abs=1e-12)


@processes
def test_one_weight_a_sample_weighs_all_its_steps(two):
    assert max(two.call(weighted.one_weight_for_all_steps)[0]) <= FLOAT64


@processes
@pytest.mark.parametrize("case", ["marked", "marked_and_weighted"])
def test_a_marked_mean_ends_where_one_device_does(two, case):
    assert max(two.call(parity.compare, f"{HERE}:{case}")[0]) <= FLOAT64


@processes
def test_a_marked_mean_needs_no_collective_of_its_own(two):
    # Unmarked, the number would be computed on the gathered batch: one more collective.
    assert two.call(steps.collectives, f"{HERE}:marked_and_weighted")[0] == {"train": 1, "test": 1}


@processes
@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_a_false_mark_is_refused_at_the_first_step(two, method):
    with pytest.raises(WorkerFailed, match=r'the loss "largest_number", which is marked with service\.batch_mean') as failed:
        two.call(weighted.falsely_marked, method)
    assert failed.value.kind == "NotExact"


@service.batch_mean
class HalfMean(keras.losses.Loss):
    """A class of losses whose number is a mean."""

    def call(self, y_true, y_pred):
        return 0.5 * keras.ops.mean(keras.ops.abs(y_true - y_pred))


@pytest.mark.parametrize("loss", [weighted.mean_number, HalfMean()], ids=["a function", "a class"])
def test_a_mark_is_there_again_after_load_model(loss, tmp_path):
    from service.exact.marks import is_batch_mean

    case = weighted.marked()
    case.model.compile("sgd", loss, metrics=["mae"])
    case.model.save(tmp_path / "model.keras")
    assert models.missing(case.model) == []
    again = keras.saving.load_model(tmp_path / "model.keras", {"mean_number": weighted.mean_number, "HalfMean": HalfMean})
    assert is_batch_mean(again.loss)
    assert again.evaluate(case.arguments["x"], case.arguments["y"], verbose=0) == pytest.approx(
        case.model.evaluate(case.arguments["x"], case.arguments["y"], verbose=0)
    )


def test_a_marked_function_is_the_same_function():
    assert (weighted.mean_number.__name__, weighted.mean_number.__module__) == ("mean_number", HERE)
    one = HalfMean(name="half")
    assert service.batch_mean(one) is one


@pytest.mark.parametrize(
    ("loss", "says"),
    [("mse", "got 'mse': expected a loss function"), (keras.losses.dice, "would mark it for all models"), (max, "cannot mark")],
)
def test_what_cannot_be_marked_is_refused(loss, says):
    with pytest.raises(ModelInvalid, match=says):
        service.batch_mean(loss)
