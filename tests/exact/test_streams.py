"""Streams train as arrays do: as on one device, on any number of workers, and on from any checkpoint."""

import numpy as np
import pytest

from tests.exact import streams
from tests.processes import WorkerFailed

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def two(two_double):
    return two_double


RARE = ("tf.data, endless", "PyDataset, threads", "arrays, epochs inside a pass", "tf.data")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.soak] * (kind in RARE)) for kind in streams.COMPARED])
def test_two_workers_end_where_one_device_does(two, kind):
    found = two.call(streams.compare, kind)[0]
    print(kind, found)
    assert max(found) <= 1e-9


@pytest.mark.parametrize("kind", ["generator, lengths that differ"])
def test_a_generator_on_every_worker_gives_what_the_chief_s_would(two, kind):
    assert max(two.call(streams.compare, kind, {"same_everywhere": True})[0]) <= 1e-9


@pytest.mark.parametrize("kind", ["tf.data", "generator"])
def test_evaluation_and_predictions_are_one_device_s(two, kind):
    for ours, stock, predicted, expected in two.call(streams.tested, kind):
        np.testing.assert_allclose(ours, stock, rtol=1e-12)
        np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-12)


RESUMED = {
    "tf.data, own rows": ("batch_end", 1, 2),
    "tf.data, shuffled": ("batch_end", 2, 2),
    "PyDataset, reordered": ("batch_end", 2, 3),
    "generator": ("batch_end", 1, 2),
}


SELDOM = ("tf.data, shuffled", "PyDataset, reordered")


@pytest.mark.parametrize(
    ("kind", "moment"),
    [pytest.param(kind, moment, marks=[pytest.mark.soak] if kind in SELDOM else []) for kind, moment in RESUMED.items()],
)
def test_a_run_goes_on_with_the_batch_that_would_have_come(two, tmp_path, kind, moment):
    whole = two.call(streams.attempt, str(tmp_path / "whole"), kind, None)
    assert two.call(streams.attempt, str(tmp_path / "cut"), kind, moment) == [str(moment)] * 2
    for mine, other in zip(two.call(streams.attempt, str(tmp_path / "cut"), kind, None), whole, strict=True):
        assert mine.history == other.history
        for one, another in zip(mine.weights, other.weights, strict=True):
            np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("longer", r"Batch 4 of the tf.data pipeline is the end on workers 0 and not on the others"),
        ("other rows", r"Batch 0 of the tf.data pipeline differs between the workers"),
        ("its own generator", r"Batch 8 of the generator is the end on workers 0"),
        ("another PyDataset", r"differs between the workers"),
    ],
)
def test_workers_whose_pipelines_differ_stop_and_none_hangs(two, problem, words):
    with pytest.raises(WorkerFailed, match=words) as caught:
        two.call(streams.apart, problem)
    assert caught.value.kind == "WorkersDiffer"


def test_a_generator_that_ends_ends_training_with_the_epochs_it_gave(two):
    # Ten batches in epochs of four are 4, 4 and 2; nothing is left for the others.
    for history in two.call(_ends, 10, 7):
        assert len(history["loss"]) == 3


def _ends(batches, epochs):
    return streams.ends(batches, epochs=epochs, steps_per_epoch=4)


@pytest.mark.parametrize("batch", [0, pytest.param(5, marks=pytest.mark.soak)])
def test_an_error_in_the_chief_s_generator_reaches_every_worker(two, batch):
    with pytest.raises(WorkerFailed, match="no such file"):
        two.call(streams.raises_in, batch)
    assert max(two.call(streams.compare, "generator")[0]) <= 1e-9  # the workers are still in step
