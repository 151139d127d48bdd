"""Where training diverges a run goes back, trains on without the batches that led there, and always writes it down."""

import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from service.storage import detours, layout
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests import divergences
from tests.divergences import STEPS

pytestmark = pytest.mark.processes

EVERY_STEP = {"rollbacks": 1, "save_every_steps": 1}
NEVER_SAVED = {"save_every_epochs": None}


def log_of(url):
    log = CommitLog(Store(str(url)))
    log.refresh()
    assert log.damaged == {}
    return log


def written(url):
    """Returns what the log tells of divergences."""
    return [entry.body for entry in detours.diverged(log_of(url))]


def same(mine, other):
    """Compares everything by its bits but what was said."""
    mine, other = dict(mine), dict(other)
    mine.pop("said"), other.pop("said")
    assert "error" not in mine, mine["error"]
    variables, others = mine.pop("variables"), other.pop("variables")
    np.testing.assert_equal(mine, other)  # of which NaN is NaN
    for one, another in zip(variables, others, strict=True):
        np.testing.assert_array_equal(one, another)


# Rows 24 to 31, the fourth batch of each epoch's six, are poison. What is left out is from the checkpoint's place to there.
POISON = [slice(24, 32)]
LEFT = [
    # At steps 2 and 4, of which the fourth one diverges: batches 3 and 4 go, steps 3 and 4 are on batches 5 and 6. That is four
    # steps an epoch, so in each one the checkpoint is behind its second batch.
    ({"save_every_steps": 2}, [slice(16, 32)], [[[e, 2], [e, 3]] for e in range(2)]),
    # At the ends of epochs; in the first one the run goes back to its beginning.
    ({"save_every_epochs": 1}, [slice(0, 32)], [[[e, 0], [e, 3]] for e in range(2)]),
]


@pytest.mark.parametrize(("saves", "left", "skipped"), LEFT, ids=["two steps", "each epoch"])
def test_the_run_is_bit_for_bit_the_one_that_never_had_these_batches(two, tmp_path, saves, left, skipped):
    went_back = two.call(divergences.train, str(tmp_path / "poison"), {"rollbacks": 1, **saves}, POISON)
    for mine, other in zip(went_back, two.call(divergences.train, str(tmp_path / "without"), saves, [], left), strict=True):
        assert all(map(math.isfinite, mine["history"]["loss"]))
        same(mine, other)
    assert [body["skipped"] for body in written(tmp_path / "poison")] == skipped
    # One worker speaks for both.
    assert went_back[0]["said"].count("Training diverged") == 2 and went_back[1]["said"] == ""
    assert written(tmp_path / "without") == []


@pytest.mark.soak
def test_what_was_left_out_stays_so_when_the_run_is_interrupted_later(two, tmp_path):
    options, left = {"rollbacks": 1, "save_every_steps": 2}, [slice(16, 32)]
    # When the second epoch begins the run has gone back once, and in its fifth batch twice.
    for moment in (("batch_begin", 1, 0), ("batch_end", 1, 4)):
        stopped = two.call(divergences.train, str(tmp_path / "poison"), options, POISON, [], 1e30, 2, moment)
        assert [each["error"] for each in stopped] == [f"Interrupted: {moment}"] * 2
    went_back = two.call(divergences.train, str(tmp_path / "poison"), options, POISON)
    for mine, other in zip(went_back, two.call(divergences.train, str(tmp_path / "without"), {}, [], left), strict=True):
        same(mine, other)
    assert [body["skipped"] for body in written(tmp_path / "poison")] == [[[e, 2], [e, 3]] for e in range(2)]


def close(mine, stock):
    """Compares with stock Keras: float32's rounding over a few steps."""
    assert "error" not in mine, mine["error"]
    assert mine["history"].keys() == stock["history"].keys()
    for name, values in stock["history"].items():
        np.testing.assert_allclose(mine["history"][name], values, rtol=1e-5, atol=0, err_msg=name)
    for one, another in zip(mine["weights"], stock["weights"], strict=True):
        np.testing.assert_allclose(one, another, rtol=0, atol=1e-6)


@pytest.mark.soak
def test_what_is_left_out_may_go_over_the_end_of_an_epoch(one, tmp_path):
    # A checkpoint behind step 4 of 6; poison in the second epoch's second batch.
    options = {"rollbacks": 1, "save_every_steps": 4, **NEVER_SAVED}
    (mine,) = one.call(divergences.simply, str(tmp_path), options, {(1, 1)})
    close(mine, one.call(divergences.stock, [[0, 1, 2, 3], [2, 3, 4, 5], [0, 1, 2, 3, 4, 5]])[0])
    (body,) = written(tmp_path)
    assert body["skipped"] == [[0, 4], [1, 1]] and body["step"] == 8
    assert mine["updates"] == 3 * STEPS - 4
    assert "epoch 2, batch 2 (step 8): its loss is inf. It goes back to checkpoint 2 (step 4)" in mine["said"]
    assert "what is from epoch 1, batch 5 to epoch 2, batch 2" in mine["said"]


def test_an_epoch_without_any_batch_has_no_training_metrics_but_its_moments_and_validation(one, tmp_path):
    # Nothing is saved before the third epoch's second batch diverges.
    (mine,) = one.call(divergences.simply, str(tmp_path), {"rollbacks": 1, **NEVER_SAVED}, {(2, 1)})
    stock = one.call(divergences.stock, [[], [], [2, 3, 4, 5]])[0]
    assert all(map(math.isnan, stock["history"]["loss"][:2])) and not any(map(math.isnan, stock["history"]["val_loss"]))
    close(mine, stock)
    assert [(body["back_to"], body["skipped"]) for body in written(tmp_path)] == [(0, [[0, 0], [2, 1]])]


# Twelve batches an epoch, a checkpoint behind the sixth. The first poison leaves out batches 7 and 8; three steps later, on
# batch 12, the second one diverges in what is then step 10.
TWICE = {"save_every_steps": 6, **NEVER_SAVED}, {(0, 7), (0, 11)}, 2, None, 12


def test_twice_in_a_row_is_more_than_once_and_the_same_command_goes_on_from_there(one, tmp_path):
    options, *given = TWICE
    (mine,) = one.call(divergences.simply, str(tmp_path), {"rollbacks": 1, **options}, *given)
    assert mine["error"].startswith(
        "Diverged: Training diverged in epoch 1, batch 12 (step 10): its loss is inf. The run went back once without a new "
        "good checkpoint, which is what rollbacks=1 allows: to checkpoint 2 without epoch 1's batches 7 to 8. Look at the data"
    )
    assert [(body["back_to"], body["skipped"], body["is_over"]) for body in written(tmp_path)] == [
        (2, [[0, 6], [0, 7]], False),
        (2, [], True),
    ]
    (mine,) = one.call(divergences.simply, str(tmp_path), {"rollbacks": 1, **options}, *given)
    close(mine, one.call(divergences.stock, [[*range(6)], [*range(12)]])[0])
    assert written(tmp_path)[-1]["skipped"] == [[0, 6], [0, 11]]


def test_a_run_that_may_go_back_twice_does(one, tmp_path):
    options, *given = TWICE
    (mine,) = one.call(divergences.simply, str(tmp_path), {"rollbacks": 2, **options}, *given)
    close(mine, one.call(divergences.stock, [[*range(6)], [*range(12)]])[0])
    assert [body["skipped"] for body in written(tmp_path)] == [[[0, 6], [0, 7]], [[0, 6], [0, 11]]]


@pytest.mark.soak
def test_a_new_good_checkpoint_makes_good_for_what_was_before(one, tmp_path):
    places = {(epoch, 3) for epoch in range(5)}
    (mine,) = one.call(divergences.simply, str(tmp_path), EVERY_STEP, places, 5)
    close(mine, one.call(divergences.stock, [[0, 1, 2, 4, 5]] * 5)[0])
    assert len(written(tmp_path)) == 5


def test_a_checkpoint_that_is_not_finite_is_not_gone_back_to_and_takes_no_good_one_s_place(one, tmp_path):
    # The third step leaves NaN in a weight, and a checkpoint with it, before the fourth step's loss tells.
    options = {"rollbacks": 1, "save_every_steps": 1, "keep": 1}
    (mine,) = one.call(divergences.simply, str(tmp_path), options, set(), 2, {(0, 2): math.nan})
    close(mine, one.call(divergences.stock, [[0, 1, 4, 5], [*range(6)]])[0])
    (body,) = written(tmp_path)
    # The log: opened, steps 1 and 2 and the tombstone of the first, then step 3.
    assert (body["back_to"], body["step"], body["skipped"]) == (3, 4, [[0, 2], [0, 3]])
    assert 5 in log_of(tmp_path).deleted(), "what was left behind went with the next good one"


def test_a_checkpoint_from_which_training_diverges_at_once_is_left_for_an_earlier_one(one, tmp_path):
    # The third step leaves weights so large that they are finite still: the loss of the fourth is not, nor of the fifth.
    options = {"rollbacks": 2, "save_every_steps": 1}
    (mine,) = one.call(divergences.simply, str(tmp_path), options, set(), 2, {(0, 2): 1e30})
    close(mine, one.call(divergences.stock, [[0, 1, 5], [*range(6)]])[0])
    first, second = written(tmp_path)
    steps = {entry.number: entry.body["step"] for entry in log_of(tmp_path).checkpoints()}
    assert first["skipped"] == [[0, 3], [0, 3]] and second["skipped"] == [[0, 2], [0, 4]]
    assert second["back_to"] < first["back_to"] and steps.get(second["back_to"], 2) == 2


@pytest.mark.soak
def test_a_spike_is_seen_from_the_losses_before_it_also_when_the_run_went_on_in_between(one, tmp_path):
    # 30 steps, of which the 26th has a loss some thousand times as large: seen where at least 20 are known before.
    options = {"rollbacks": 1, "spike": 20.0, "save_every_steps": 5, **NEVER_SAVED}
    for name, moment in (("whole", None), ("cut", ("batch_end", 2, 5))):
        call = (divergences.simply, str(tmp_path / name), options, {(4, 1)}, 5, None, STEPS, 50.0)
        if moment:
            assert one.call(*call, moment)[0]["error"] == f"Interrupted: {moment}"
        (mine,) = one.call(*call)
        # The checkpoint is behind step 25, the fifth epoch's first.
        close(mine, one.call(divergences.stock, [[*range(6)]] * 4 + [[0, 2, 3, 4, 5]])[0])
        (body,) = written(tmp_path / name)
        assert body["skipped"] == [[4, 1], [4, 1]] and "times the usual spread" in body["why"]
    assert written(tmp_path / "whole")[0]["why"] == written(tmp_path / "cut")[0]["why"]


def test_without_a_limit_for_spikes_the_same_losses_pass(one, tmp_path):
    (mine,) = one.call(divergences.simply, str(tmp_path), EVERY_STEP, {(4, 1)}, 5, None, STEPS, 50.0)
    assert written(tmp_path) == [] and mine["updates"] == 5 * STEPS


def test_a_run_that_may_not_go_back_trains_on_and_tells_once_and_keeps_the_last_good_checkpoint(one, tmp_path):
    options = {"save_every_steps": 1, "keep": 1}
    (mine,) = one.call(divergences.simply, str(tmp_path), options, {(0, 3), (1, 2)}, 3, None, STEPS, 1e30, ("batch_end", 1, 1))
    (again,) = one.call(divergences.simply, str(tmp_path), options, {(0, 3), (1, 2)})
    assert [each["said"].count("Training diverged") for each in (mine, again)] == [1, 0]
    assert np.isnan(again["history"]["loss"]).all() and again["updates"] == 3 * STEPS
    (body,) = written(tmp_path)
    assert (body["epoch"], body["batch"], body["skipped"], body["is_over"]) == (0, 3, [], False)
    good = detours.good(log_of(tmp_path), 1)
    assert [(entry.number, entry.body["step"]) for entry in good] == [(body["back_to"], 3)]


def test_a_run_that_was_not_allowed_to_go_back_does_so_where_the_same_command_allows_it(one, tmp_path):
    places, options = {(0, 3)}, {"save_every_steps": 1}
    moment = ("batch_end", 1, 1)
    one.call(divergences.simply, str(tmp_path), options, places, 2, None, STEPS, 1e30, moment)
    (mine,) = one.call(divergences.simply, str(tmp_path), EVERY_STEP, places, 2)
    # Back to step 3, without the fourth batch; those that were trained on NaN since are trained on again.
    close(mine, one.call(divergences.stock, [[0, 1, 2, 4, 5], [*range(6)]])[0])
    assert [body["skipped"] for body in written(tmp_path)] == [[], [[0, 3], [0, 3]]]


def test_terminate_on_nan_keeps_its_meaning_and_sees_no_step_that_was_undone(one, tmp_path):
    given = ({(0, 3)}, 2, None, STEPS, 1e30, None, ("TerminateOnNaN",))
    (mine,) = one.call(divergences.simply, str(tmp_path / "stops"), {}, *given)
    assert mine["updates"] == 4 and len(mine["history"]["loss"]) == 1 and len(written(tmp_path / "stops")) == 1
    (mine,) = one.call(divergences.simply, str(tmp_path / "goes on"), EVERY_STEP, *given)
    assert mine["updates"] == 2 * STEPS - 1


def test_a_train_step_of_the_author_s_own_goes_back_when_a_loss_it_tells_of_is_not_finite(two, tmp_path):
    given = ({(0, 3)}, 2, None, STEPS, 1e30, None, (), None, divergences.own_step)
    (mine, other) = two.call(divergences.simply, str(tmp_path), EVERY_STEP, *given)
    assert mine["history"] == other["history"] and np.isfinite(mine["history"]["own_loss"]).all()
    assert [body["skipped"] for body in written(tmp_path)] == [[[0, 3], [0, 3]]]


def test_a_run_in_one_process_goes_back_by_itself(one, tmp_path):
    history, said = one.call(divergences.driven, str(tmp_path))[0]
    assert np.isfinite(history["loss"]).all() and said.count("Training diverged") == 2
    assert [body["skipped"] for body in written(tmp_path / "driven")] == [[[0, 2], [0, 2]], [[1, 2], [1, 2]]]
    # Five steps an epoch; no event of an attempt that was left is there too.
    events = EventAccumulator(f"{tmp_path}/driven/logs/train", size_guidance={"tensors": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("epoch_loss")] == [5, 10]


# From the end of the checkpoint before to where the next attempt has opened the run.
@pytest.mark.soak
@pytest.mark.parametrize("offset", range(-1, 4))
def test_a_process_that_dies_anywhere_while_it_goes_back_changes_nothing(one, tmp_path, offset):
    options, places = {"rollbacks": 1, "save_every_steps": 2, **NEVER_SAVED}, {(0, 3)}
    whole, calls = one.call(divergences.dying, str(tmp_path / "whole"), options, places)[0]
    entry = calls.index(("create", layout.commit(detours.diverged(log_of(tmp_path / "whole"))[0].number))) + 1
    url = str(tmp_path / "dies")
    assert one.call(divergences.dying, url, options, places, entry + offset)[0][0] is None
    (mine,) = one.call(divergences.simply, url, options, places, 1)
    assert mine["history"] == whole["history"]
    np.testing.assert_equal(mine["weights"], whole["weights"])
    assert [body["skipped"] for body in written(url)] == [[[0, 2], [0, 3]]]
