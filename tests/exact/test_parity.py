"""Law 3: on any number of replicas, stock Keras on one device is the oracle."""

import hypothesis
import pytest

from tests.exact import models, parity
from tests.exact.cases import arguments, drawn, layers, losses, metrics, optimizers, precision, weights
from tests.processes import Workers

pytestmark = pytest.mark.processes
MODULES = (losses, weights, metrics, optimizers, layers, arguments)
FLOAT64 = 1e-9  # over max(1, largest entry): on weights and optimizer state, history and predictions
FLOAT32_STEP = 1e-6  # after one step
FLOAT32_RUN = 4.0  # times the distance of the oracle from itself with inputs moved by one unit in the last place


def short(case):
    return case.removeprefix("tests.exact.").removeprefix("cases.").replace(":", ".")


def marked(case, is_rare):
    return pytest.param(case, marks=[pytest.mark.soak] if is_rare else [], id=short(case))


CASES = [marked(case, False) for case in models.CASES]
# Noise, masks, statistics of a batch: what each further kind of replicas or type is tried with first.
FEW = [marked(case, case.rpartition(":")[2] not in ("dense", "masked", "cnn")) for case in models.CASES]
CASES += [marked(case, case in module.RARE) for module in MODULES for case in module.CASES]


class Oracle:
    """Stock Keras on one device, in a process of its own; what it once computed is kept."""

    def __init__(self, floatx):
        self._workers = Workers(1, floatx)
        self._known = {}

    def __call__(self, function, *args):
        if (function, args) not in self._known:
            self._known[function, args] = self._workers.call(function, *args)[0]
        return self._known[function, args]

    def stop(self):
        self._workers.stop()


@pytest.fixture(scope="module")
def oracle():
    oracle = Oracle("float64")
    yield oracle
    oracle.stop()


def beginner(request):
    """Returns what begins a case on the group of processes that a fixture's parameter names, and gives what waits for it."""
    name = {"2 replicas": "one_double", "2 workers": "two_double", "3 workers": "three_double"}[request.param]
    train = parity.ours_on_replicas if request.param == "2 replicas" else parity.ours
    return lambda case: request.getfixturevalue(name).begin(train, case)


# A last batch of one row idles a worker of two as well. On three workers, and on replicas in one process, `make test`
# runs the models of the first list, and `make soak` every case.
MANY = [pytest.param(group, marks=pytest.mark.soak) for group in ("2 replicas", "3 workers")]


@pytest.fixture(scope="module", params=["2 workers", *MANY])
def ours(request):
    """Begins a case on so many replicas and returns what waits for the end of it."""
    return beginner(request)


@pytest.mark.parametrize("case", CASES)
def test_replicas_end_where_one_device_does(ours, oracle, case):
    result = ours(case)
    difference = parity.difference(oracle(parity.stock, case), result()[0])
    print(short(case), difference)
    assert max(difference) <= FLOAT64


def any_small_case_ends_where_one_device_does(ours, oracle, case):
    result = ours(case)
    assert max(parity.difference(oracle(parity.stock, case), result()[0])) <= FLOAT64


def drawing(examples):
    """Returns a test of so many cases put together by chance, the same ones each time."""
    settings = hypothesis.settings(max_examples=examples, derandomize=True, deadline=None, database=None)
    return settings(hypothesis.given(case=drawn.CASES)(any_small_case_ends_where_one_device_does))


test_a_few_small_cases_put_together_by_chance_end_where_one_device_does = drawing(4)
test_many_small_cases_put_together_by_chance_end_where_one_device_does = pytest.mark.soak(drawing(150))


@pytest.fixture(scope="module", params=["2 replicas", "3 workers"])
def others(request):
    """As `ours`, of which one process serves two."""
    return beginner(request)


@pytest.mark.parametrize("case", FEW)
def test_other_groups_end_where_one_device_does(others, oracle, case):
    result = others(case)
    assert max(parity.difference(oracle(parity.stock, case), result()[0])) <= FLOAT64


@pytest.fixture(scope="module")
def oracle_in_float32():
    oracle = Oracle("float32")
    yield oracle
    oracle.stop()


@pytest.fixture(scope="module", params=[3], ids="{} workers".format)
def single(request):
    workers = Workers(request.param, "float32")
    yield workers
    workers.stop()


@pytest.mark.parametrize("case", FEW)
def test_one_step_in_float32_is_one_device_s(single, oracle_in_float32, case):
    result = single.begin(parity.our_sgd_step, case)
    difference = parity.largest(oracle_in_float32(parity.stock_sgd_step, case), result()[0])
    print(short(case), single.count, difference)
    assert difference <= FLOAT32_STEP


@pytest.mark.parametrize("case", [*FEW, *(marked(case, case != precision.CASES[0]) for case in precision.CASES)])
def test_a_run_in_float32_strays_no_further_than_rounding(single, oracle_in_float32, case):
    result = single.begin(parity.ours, case)
    expected, moved = oracle_in_float32(parity.stock, case), oracle_in_float32(parity.stock, case, True)
    rounding = parity.largest(expected.weights, moved.weights)
    ours = parity.largest(expected.weights, result()[0].weights)
    print(short(case), single.count, f"ours {ours:.2g}, the oracle from itself {rounding:.2g}")
    assert ours <= FLOAT32_RUN * rounding
