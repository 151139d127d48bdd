"""Law 3: on any number of replicas, stock Keras on one device is the oracle."""

import pytest

from tests.exact import parity
from tests.exact.models import CASES
from tests.processes import Workers

pytestmark = pytest.mark.processes
COUNTS = [1, 2, 3]
FLOAT64 = 1e-9  # over max(1, largest entry): on weights and optimizer state, history and predictions
FLOAT32_STEP = 1e-6  # after one step
FLOAT32_RUN = 4.0  # times the distance of the oracle from itself with inputs moved by one unit in the last place


def short(case):
    return case.partition(":")[2]


@pytest.fixture(scope="module", params=COUNTS, ids="{} workers".format)
def double(request):
    workers = Workers(request.param, "float64")
    yield workers
    workers.stop()


@pytest.fixture(scope="module", params=[2, 3], ids="{} workers".format)
def single(request):
    workers = Workers(request.param, "float32")
    yield workers
    workers.stop()


@pytest.mark.parametrize("case", CASES, ids=short)
def test_workers_end_where_one_device_does(double, case):
    difference = double.call(parity.compare, case)[0]
    print(short(case), double.count, difference)
    assert max(difference) <= FLOAT64


@pytest.mark.parametrize("case", CASES, ids=short)
def test_two_replicas_in_one_process_end_where_one_device_does(double, case):
    if double.count > 1:
        return  # replicas of one process need no second one
    difference = double.call(parity.compare, case, "replicas")[0]
    print(short(case), "2 replicas", difference)
    assert max(difference) <= FLOAT64


@pytest.mark.parametrize("case", CASES, ids=short)
def test_one_step_in_float32_is_one_device_s(single, case):
    difference = single.call(parity.one_sgd_step, case)[0]
    print(short(case), single.count, difference)
    assert difference <= FLOAT32_STEP


@pytest.mark.parametrize("case", CASES, ids=short)
def test_a_run_in_float32_strays_no_further_than_rounding(single, case):
    ours, rounding = single.call(parity.strays, case)[0]
    print(short(case), single.count, f"ours {ours:.2g}, the oracle from itself {rounding:.2g}")
    assert ours <= FLOAT32_RUN * rounding
