"""A train_step, test_step or metric of the author's own takes one device's step on any number of replicas."""

import numpy as np
import pytest

from tests.exact import own_steps, parity
from tests.exact.own_models import CASES
from tests.processes import WorkerFailed

pytestmark = pytest.mark.processes
FLOAT64 = 1e-9  # over max(1, largest entry): on weights and optimizer state, history and predictions


def short(case):
    return case.partition(":")[2]


@pytest.fixture(scope="module")
def one(one_double):
    return one_double


@pytest.fixture(scope="module")
def two(two_double):
    return two_double


@pytest.fixture(scope="module")
def three(three_double):
    return three_double


@pytest.mark.parametrize("case", [case for case in CASES if "adversaries" not in case], ids=short)
def test_two_workers_end_where_one_device_does(two, case):
    difference = two.call(parity.compare, case)[0]
    print(short(case), difference)
    assert max(difference) <= FLOAT64


@pytest.mark.parametrize(
    "case", [*(pytest.param(case, marks=pytest.mark.soak) for case in ("trackers", "in_a_layer")), "scaled"]
)
def test_two_replicas_in_one_process_end_where_one_device_does(one, case):
    difference = one.call(parity.compare, f"tests.exact.own_models:{case}", "replicas")[0]
    print(case, "2 replicas", difference)
    assert max(difference) <= FLOAT64


@pytest.mark.parametrize("case", ["trackers", pytest.param("adversaries", marks=pytest.mark.soak)])
def test_idle_workers_in_the_last_batch_bring_nothing(three, case):
    difference = three.call(parity.compare, f"tests.exact.own_models:{case}")[0]
    print(case, "3 workers", difference)
    assert max(difference) <= FLOAT64


@pytest.mark.parametrize(
    ("mistake", "optimizer", "says"),
    [
        ("mean", "sgd", r"apart by 1 times the step.*service\.share"),  # two means instead of one: twice the step
        ("mean", "adam", r"apart by .*service\.share"),  # the same weights, but another state
        ("clip", "sgd", "clipnorm"),
        ("metric", "sgd", 'the metric "tracked" otherwise on 2 replicas'),
        ("log", "sgd", 'returned "loss" = '),
    ],
)
def test_a_step_that_is_not_one_device_s_stops_at_the_first(two, mistake, optimizer, says):
    with pytest.raises(WorkerFailed, match=says) as failed:
        two.call(own_steps.wrong, mistake, optimizer)
    assert failed.value.kind == "NotExact"


def test_a_returned_loss_is_the_last_batch_s(two):
    history, other = two.call(own_steps.wrong, "")
    assert history == other and history["loss"][0] > 0  # stock Keras writes 0 down, of a tracker never updated


def test_a_stop_on_one_worker_stops_all_after_the_same_step(two):
    # 25 rows in batches of 8: the worker stops in batch 1, after 16 rows.
    results = two.call(own_steps.stops, 1, 1)
    oracle = two.call(own_steps.stock_steps, 16)[0]
    for batches, variables, saved in results:
        assert batches == 2
        assert saved  # both optimizers' states and the trackers too
        for mine, stock in zip(variables, oracle, strict=True):
            np.testing.assert_allclose(mine, stock, rtol=0, atol=1e-12)


def test_learning_rates_of_every_optimizer_must_agree(two):
    with pytest.raises(WorkerFailed, match=r"learning rates of the workers differ.*0\.05") as failed:
        two.call(own_steps.other_rates)
    assert failed.value.kind == "WorkersDiffer"


def test_local_statistics_normalize_each_replica_s_rows_and_move_alike(three):
    # 8 rows on 3 workers: 2, 3 and 3.
    assert max(three.call(own_steps.local_statistics, 3)) <= 1e-12


def test_a_run_with_two_optimizers_goes_on_to_the_same_bits(two, tmp_path):
    moment = ("batch_end", 1, 2)
    whole = two.call(own_steps.attempt, str(tmp_path / "whole"), None)
    assert two.call(own_steps.attempt, str(tmp_path / "cut"), moment) == [str(moment)] * 2
    for (history, values), (expected, others) in zip(
        two.call(own_steps.attempt, str(tmp_path / "cut"), None), whole, strict=True
    ):
        assert history == expected
        for value, other in zip(values, others, strict=True):
            np.testing.assert_array_equal(value, other)
