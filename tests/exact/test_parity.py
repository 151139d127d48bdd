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


# A last batch of one row idles a worker of two as well. On three workers, and on replicas in one process, `make test`
# runs the models of the first list, and `make soak` every case.
MANY = [pytest.param(group, marks=pytest.mark.soak) for group in ("2 replicas", "3 workers")]


@pytest.fixture(scope="module", params=["2 workers", *MANY])
def ours(request):
    """Begins a case on so many replicas and returns what waits for the end of it."""
    count, what = request.param.split()
    workers = Workers(1 if what == "replicas" else int(count), "float64")
    yield lambda case: workers.begin(parity.ours_on_replicas if what == "replicas" else parity.ours, case)
    workers.stop()


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
    count, what = request.param.split()
    workers = Workers(1 if what == "replicas" else int(count), "float64")
    yield lambda case: workers.begin(parity.ours_on_replicas if what == "replicas" else parity.ours, case)
    workers.stop()


@pytest.mark.parametrize("case", models.CASES, ids=short)
def test_other_groups_end_where_one_device_does(others, oracle, case):
    result = others(case)
    assert max(parity.difference(oracle(parity.stock, case), result()[0])) <= FLOAT64


def test_a_step_compiled_by_xla_ends_where_stock_keras_s_does(oracle):
    alone = Workers(1, "float64")
    result = alone.begin(parity.ours, precision.JIT)
    assert max(parity.difference(oracle(parity.stock, precision.JIT), result()[0])) <= FLOAT64
    alone.stop()


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


@pytest.mark.parametrize("case", models.CASES, ids=short)
def test_one_step_in_float32_is_one_device_s(single, oracle_in_float32, case):
    result = single.begin(parity.our_sgd_step, case)
    difference = parity.largest(oracle_in_float32(parity.stock_sgd_step, case), result()[0])
    print(short(case), single.count, difference)
    assert difference <= FLOAT32_STEP


@pytest.mark.parametrize("case", [*models.CASES, *precision.CASES], ids=short)
def test_a_run_in_float32_strays_no_further_than_rounding(single, oracle_in_float32, case):
    result = single.begin(parity.ours, case)
    expected, moved = oracle_in_float32(parity.stock, case), oracle_in_float32(parity.stock, case, True)
    rounding = parity.largest(expected.weights, moved.weights)
    ours = parity.largest(expected.weights, result()[0].weights)
    print(short(case), single.count, f"ours {ours:.2g}, the oracle from itself {rounding:.2g}")
    assert ours <= FLOAT32_RUN * rounding
