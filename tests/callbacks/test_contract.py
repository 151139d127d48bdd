"""Callbacks of every kind do the same on one worker and on two, and after a restart."""

import keras
import numpy as np
import pytest

from tests.callbacks import runs
from tests.processes import WorkerFailed

pytestmark = pytest.mark.processes
# 45 rows less the last fifth are 36: 8, 8, 8, 8, 4 in an epoch.
STEPS = {"save_every_steps": 2}
RARE = pytest.mark.soak
BOUNDARIES = [
    pytest.param({}, ("epoch_end", epoch, 0), marks=[] if epoch == 2 else RARE, id=f"epoch {epoch}") for epoch in range(4)
]
INSIDE = [
    pytest.param(STEPS, ("batch_end", 0, 0), marks=RARE, id="batch_end 0 0"),
    pytest.param(STEPS, ("batch_end", 1, 3), id="batch_end 1 3"),
    pytest.param(STEPS, ("batch_begin", 3, 1), id="batch_begin 3 1"),
    pytest.param(STEPS, ("train_end", 4, 0), marks=RARE, id="train_end 4 0"),
]


@pytest.fixture(scope="module")
def alone(one, tmp_path_factory):
    (left,) = one.call(runs.train, str(tmp_path_factory.mktemp("alone")), "ours")
    return left


@pytest.fixture(scope="module")
def together(two, tmp_path_factory):
    return two.call(runs.train, str(tmp_path_factory.mktemp("together")), "ours")


def test_the_run_stops_early_and_reduces_its_rate(alone):
    # What the other tests compare is worth comparing: every callback has acted.
    epochs = len(alone["history"]["loss"])
    assert epochs < runs.EPOCHS and alone["stopping"][2] == epochs - 1
    rates = alone["history"]["learning_rate"]
    assert rates[:3] == pytest.approx([0.2, 0.04, 0.04 * 0.9])  # as compiled, by the chief alone, by the schedule
    assert min(rates) < 0.02  # and by the plateau


def test_every_event_is_there_once(alone):
    places = [event[:3] for event in alone["events"]]
    assert len(set(places)) == len(places)
    epochs = len(alone["history"]["loss"])
    of = {}
    for kind, step, tag, _ in alone["events"]:
        of.setdefault(tag if kind == "train" else (kind, tag), []).append(step)
    assert of["epoch_loss"] == [5 * epoch for epoch in range(1, epochs + 1)]
    assert of["batch_loss"] == list(range(2, 5 * epochs + 1, 2))
    assert of["own/ratio"] == of["epoch_loss"]
    (inside,) = (steps for tag, steps in of.items() if tag[-11:] == "inside/mean")
    assert inside == [step - 1 for step in of["batch_loss"]]  # of the updates before it
    assert of["watched/kernel/histogram"] == of["epoch_loss"][::2] == of["watched/kernel/image"]


def assert_same(mine, other):
    assert mine.keys() == other.keys()
    for name in mine:
        assert mine[name] == other[name], name


@pytest.mark.parametrize(("saves", "moment"), [*BOUNDARIES, *INSIDE])
def test_a_restart_changes_nothing_that_a_callback_decides_or_writes(one, alone, tmp_path, saves, moment):
    assert one.call(runs.train, str(tmp_path), "ours", moment, saves) == [str(moment)]
    (left,) = one.call(runs.train, str(tmp_path), "ours", None, saves)
    assert_same(left, alone)


@pytest.mark.parametrize(("saves", "moment"), [pytest.param(*BOUNDARIES[2].values, marks=RARE), INSIDE[1]])
def test_a_restart_changes_nothing_on_two_workers(two, together, tmp_path, saves, moment):
    assert two.call(runs.train, str(tmp_path), "ours", moment, saves) == [str(moment)] * 2
    for left, other in zip(two.call(runs.train, str(tmp_path), "ours", None, saves), together, strict=True):
        assert_same(left, other)


def test_two_workers_decide_as_one(alone, together):
    chief, other = together
    for name in ("history", "own", "plateau", "stopping", "best"):
        assert chief[name] == other[name], name
    assert chief["stopping"][2:] == alone["stopping"][2:] and chief["plateau"][::2] == alone["plateau"][::2]
    np.testing.assert_allclose(chief["history"]["learning_rate"], alone["history"]["learning_rate"], rtol=1e-6)
    np.testing.assert_allclose(chief["history"]["val_loss"], alone["history"]["val_loss"], rtol=1e-3)
    assert chief["files"].keys() == alone["files"].keys()
    assert [event[:3] for event in chief["events"]] == [event[:3] for event in alone["events"]]


def test_an_author_s_own_keras_callbacks_do_the_same_and_are_keras_s_again_afterwards(one, alone, tmp_path):
    (left,) = one.call(runs.train, str(tmp_path), "stock")
    assert set(left.pop("classes")) == {"keras", "tests"}
    assert_same(left, {name: value for name, value in alone.items() if name != "classes"})


def test_a_restart_changes_nothing_for_an_author_s_own_keras_callbacks(one, alone, tmp_path):
    moment = ("batch_end", 1, 3)
    assert one.call(runs.train, str(tmp_path), "stock", moment, STEPS) == [str(moment)]
    (left,) = one.call(runs.train, str(tmp_path), "stock", None, STEPS)
    assert_same({k: v for k, v in left.items() if k != "classes"}, {k: v for k, v in alone.items() if k != "classes"})


def test_a_rate_that_is_another_one_on_each_worker_names_the_callback(two):
    with pytest.raises(WorkerFailed, match=r"Set last by: Drifting\.on_epoch_begin, Drifting\.on_epoch_begin\.") as raised:
        two.call(runs.drift)
    assert raised.value.kind == "WorkersDiffer"


def test_a_model_saved_on_every_worker_is_written_once_and_whole_and_its_own_evaluate_is_exact(two, tmp_path):
    losses = two.call(runs.save, str(tmp_path))
    assert losses[0] == losses[1]
    for own, logged in losses[0]:
        assert own == pytest.approx(logged, rel=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"whole.keras", "only.weights.h5", "served"}
    loaded = keras.saving.load_model(tmp_path / "whole.keras", custom_objects={"Watched": runs.Watched})
    saved, alone = loaded.get_weights(), runs.build()
    alone.load_weights(tmp_path / "only.weights.h5")
    for one, another in zip(saved, alone.get_weights(), strict=True):
        np.testing.assert_array_equal(one, another)


def test_a_model_on_replicas_of_one_process_is_evaluated_exactly_in_a_callback(one, tmp_path):
    # Stock Keras gives both halves of the last batch of 5 rows, 3 and 2, the same weight.
    for own, logged in one.call(runs.save, str(tmp_path), True)[0]:
        assert own == pytest.approx(logged, rel=1e-5)
