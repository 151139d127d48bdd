"""What every worker sees and agrees on, step by step."""

import numpy as np
import pytest

from tests.exact import steps
from tests.processes import WorkerFailed

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def three(three_double):
    return three_double


@pytest.mark.parametrize(
    ("case", "train", "test"),
    [
        ("dense", 1, 1),  # gradients, loss, metrics and control travel together; Σ w comes from the plan
        ("vae_layer", 1, 1),
        ("two_outputs", 2, 2),  # Dice is computed on the gathered batch, before the gradients are known
        ("cnn", 3, 1),  # one for the BatchNormalization forward, one back
        ("masked", 2, 2),  # the valid entries of a mask made inside the model
    ],
)
def test_a_step_has_this_many_collectives(three, case, train, test):
    assert three.call(steps.collectives, f"tests.exact.models:{case}")[0] == {"train": train, "test": test}


@pytest.mark.parametrize("case", ["cnn", "two_outputs"])
def test_logs_are_the_same_bits_on_every_worker_in_every_batch(three, case):
    chief, *others = three.call(steps.logs_of, f"tests.exact.models:{case}")
    assert len(chief) > 8
    assert all(other == chief for other in others)


@pytest.mark.parametrize("worker", [0, 2])
def test_a_stop_on_any_worker_stops_all_after_the_same_step(three, worker):
    # 20 rows in batches of 4: the worker stops in batch 2, after 3 steps.
    results = three.call(steps.stops, worker, 2)
    oracle = three.call(steps.stock_steps, 3)[0]
    for batches, iterations, variables in results:
        assert (batches, iterations) == (3, 3)
        for mine, stock in zip(variables, oracle, strict=True):
            np.testing.assert_allclose(mine, stock, rtol=0, atol=1e-12)


def test_the_workers_share_evaluate_and_predict_and_all_get_the_same(three):
    results, hashes, rows = zip(*three.call(steps.shared_work), strict=True)
    assert results[0] == results[1] == results[2]
    assert len(set(hashes)) == 1
    # 2 batches of 10 rows: worker r holds floor(10 (r+1) / 3) - floor(10 r / 3) of each.
    assert rows == (6, 6, 8)


def test_shuffled_rows_come_in_the_documented_order(three):
    assert max(three.call(steps.in_shuffled_order)) <= 1e-12


def test_single_batches_give_what_keras_gives(three):
    ours, stock = three.call(steps.on_batches)[0]
    for mine, keras_s in zip(ours, stock, strict=True):
        assert mine == pytest.approx(keras_s, abs=1e-12)


def test_an_output_s_loss_weighs_batches_by_their_rows(three):
    history = three.call(steps.output_losses)[0]
    # loss = 0.1 a + 2 b in every batch, so also over an epoch of 8, 8, 8 and 1 rows, if all three weigh alike.
    total = 0.1 * np.array(history["a_loss"]) + 2.0 * np.array(history["b_loss"])
    np.testing.assert_allclose(history["loss"], total, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "kind", "says"),
    [
        (steps.other_weights, "WorkersDiffer", "the variable sequential"),
        (steps.other_rates, "WorkersDiffer", "0.1, 0.05, 0.0333333"),
        (steps.batch_sum, "NotExact", 'add_loss in the layer "batch_sum'),
    ],
)
def test_what_must_be_alike_stops_all_workers_where_it_is_not(three, function, kind, says):
    with pytest.raises(WorkerFailed, match=says) as failed:
        three.call(function)
    assert failed.value.kind == kind
