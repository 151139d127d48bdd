"""Steps that XLA compiles: stock Keras's numbers on one device, and a TPU core's part of a batch."""

import pytest

from tests.exact import compiled
from tests.processes import WorkerFailed

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def one(one_double):
    return one_double


def test_a_step_compiled_by_xla_gives_the_numbers_of_stock_keras_compiled_likewise(one):
    # Two batches of 8 rows and one of 5.
    distance, is_xla = one.call(compiled.from_stock, 21, True)[0]
    assert is_xla and distance <= 1e-9


def test_xla_draws_another_stream_of_noise_so_a_run_keeps_to_its_compiler(one):
    assert one.call(compiled.streams)[0] > 1e-3


def test_replicas_that_share_rows_as_cores_do_end_where_one_device_does(one):
    assert one.call(compiled.cores)[0] <= 1e-9


def test_batches_that_do_not_go_evenly_onto_the_cores_are_refused_before_the_first_step(one):
    # 10, 10 and 4 rows go onto 2 cores; 9, 9 and 6 do not.
    with pytest.raises(WorkerFailed, match="A batch of 9 rows does not go evenly onto 2 TPU cores"):
        one.call(compiled.uneven)


def test_xla_compiles_the_whole_step_of_a_core(one):
    loss, *metrics = one.call(compiled.compiles_for_a_core)[0]
    assert loss > 0 and len(metrics) == 2


@pytest.mark.parametrize("name", ["ParameterServerStrategy", "CentralStorageStrategy"])
def test_strategies_whose_replicas_do_not_step_together_are_refused_with_the_reason(one, name):
    with pytest.raises(WorkerFailed, match=f"{name}.*its step cannot be the step of one device"):
        one.call(compiled.refused, name)
