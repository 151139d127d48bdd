"""A run that was interrupted anywhere ends as if it had not been."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import service
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests import attempts
from tests.processes import WorkerFailed

pytestmark = pytest.mark.processes
# 45 rows less the last fifth are 36: 8, 8, 8, 8, 4 in an epoch; validation has two batches.
EPOCHS, STEPS = {"save_every_epochs": 1}, {"save_every_steps": 2}
RARE = pytest.mark.soak
MOMENTS = [
    pytest.param(STEPS, ("batch_end", 0, 0), marks=RARE),  # nothing is saved yet
    (STEPS, ("batch_end", 2, 1)),
    (STEPS, ("batch_end", 2, 4)),  # all of the epoch's steps, but not its end
    pytest.param(STEPS, ("test_batch_end", 2, 1), marks=RARE),
    pytest.param(EPOCHS, ("epoch_begin", 4, 0), marks=RARE),
    pytest.param(STEPS, ("train_end", 4, 0), marks=RARE),
]


@pytest.fixture(scope="module")
def whole(two, tmp_path_factory):
    return two.call(attempts.train, str(tmp_path_factory.mktemp("whole")), None)


def same(mine, other):
    variables, others = mine.pop("variables"), other.pop("variables")
    assert mine == other
    for one, another in zip(variables, others, strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize(("saves", "moment"), MOMENTS, ids=lambda value: "-".join(map(str, value)))
def test_the_continued_run_is_the_uninterrupted_one_bit_for_bit(two, whole, tmp_path, moment, saves):
    assert two.call(attempts.train, str(tmp_path), moment, 5, saves) == [str(moment)] * 2
    for mine, other in zip(two.call(attempts.train, str(tmp_path), None, 5, saves), whole, strict=True):
        same(dict(mine), dict(other))


def test_more_epochs_train_only_the_rest(two, whole, tmp_path):
    two.call(attempts.train, str(tmp_path), None, 3)
    for mine, other in zip(two.call(attempts.train, str(tmp_path), None, 5), whole, strict=True):
        same(dict(mine), dict(other))


def test_finished_stages_are_not_trained_again(two, tmp_path):
    folds = str(tmp_path / "folds")
    uninterrupted = two.call(attempts.train, str(tmp_path / "whole"), None, 3, None, 3)
    assert two.call(attempts.train, folds, ("batch_end", 1, 2), 3, None, 3) == ["('batch_end', 1, 2)"] * 2
    log = CommitLog(Store(folds))
    log.refresh()
    before = [entry.number for entry in log.checkpoints(1)]
    assert before and not log.checkpoints(3)
    for mine, other in zip(two.call(attempts.train, folds, None, 3, None, 3), uninterrupted, strict=True):
        same(dict(mine), dict(other))
    log.refresh()
    assert [entry.number for entry in log.checkpoints(1)] == before


def test_another_number_of_workers_goes_on_with_the_same_batches(one, two, whole, tmp_path):
    two.call(attempts.train, str(tmp_path), ("batch_end", 2, 1), 5, {"save_every_steps": 2})
    continued = one.call(attempts.train, str(tmp_path), None, 5, {"save_every_steps": 2})[0]
    assert continued["author"][:2] == whole[0]["author"][:2]
    assert continued["epochs"] == whole[0]["epochs"]
    for mine, other in zip(continued["variables"], whole[0]["variables"], strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=2e-5)


def test_checkpoints_hold_the_places_the_policy_names(two, tmp_path):
    two.call(attempts.train, str(tmp_path), ("batch_end", 1, 2), 5, {"save_every_steps": 2, "keep": 100})
    log = CommitLog(Store(str(tmp_path)))
    log.refresh()
    places = [(entry.body["step"], entry.body["epoch"], entry.body["batch"]) for entry in reversed(log.checkpoints())]
    # Five steps an epoch; epoch 0 ends at step 5, where its own checkpoint is due by epochs.
    assert places == [(2, 0, 2), (4, 0, 4), (5, 1, 0), (6, 1, 1)]


def test_a_loop_written_by_hand_goes_on_where_it_was(two, tmp_path):
    uninterrupted = two.call(attempts.alternate, str(tmp_path / "whole"), None)
    assert two.call(attempts.alternate, str(tmp_path / "cut"), 5) == [None, None]
    log = CommitLog(Store(str(tmp_path / "cut")))
    log.refresh()
    assert [entry.body["step"] for entry in log.checkpoints()] == [4, 2]
    for mine, other in zip(two.call(attempts.alternate, str(tmp_path / "cut"), None), uninterrupted, strict=True):
        same(mine, other)
    assert two.call(attempts.alternate, str(tmp_path / "cut"), None)[0]["losses"] == []
    assert [layer.name for layer in service.load_model(f"{tmp_path}/cut/model-both.keras").layers]


@pytest.mark.parametrize(
    ("moment", "place", "batch"), [(("batch_begin", 1, 2), (9, 1), 4), (("batch_begin", 1, 3), (10, 1), 5)]
)
def test_one_worker_that_is_told_to_leave_takes_all_along_after_the_next_step_they_commit(
    two, whole, tmp_path, moment, place, batch
):
    # Told in an epoch's third batch, after that step's wishes were read: the fourth one carries it. Then in the fourth:
    # the epoch's last step carries it, and nobody waits for the epoch's end.
    said = two.call(attempts.train, str(tmp_path), moment, 5, None, 1, None, 1)
    assert said == [f"The run {tmp_path} was asked to stop. It is committed at epoch 2, step {place[0]}; "
                    "the same command continues it from there."] * 2  # fmt: skip
    log = CommitLog(Store(str(tmp_path)))
    log.refresh()
    newest = log.checkpoints()[0].body
    assert ((newest["step"], newest["epoch"]), newest["batch"]) == (place, batch)
    for mine, other in zip(two.call(attempts.train, str(tmp_path), None), whole, strict=True):
        same(dict(mine), dict(other))


@pytest.mark.soak
def test_a_loop_written_by_hand_is_left_at_the_end_of_its_step(two, tmp_path):
    uninterrupted = two.call(attempts.alternate, str(tmp_path / "whole"), None)
    with pytest.raises(WorkerFailed, match="committed at step 4 of 7; the same command continues"):
        two.call(attempts.alternate, str(tmp_path / "cut"), 3, 7, 1)
    for mine, other in zip(two.call(attempts.alternate, str(tmp_path / "cut"), None), uninterrupted, strict=True):
        same(mine, other)


def test_a_folder_that_is_another_one_on_another_worker_s_machine_is_refused(two, tmp_path):
    with pytest.raises(WorkerFailed, match=r"00000001.json \(workers 1\)\. The workers must see one folder: give storage"):
        two.call(attempts.begin, str(tmp_path))


def test_workers_that_drifted_apart_end_the_run_with_the_tensors_names(two, tmp_path):
    with pytest.raises(WorkerFailed, match=r"After step \d+ the workers hold other values.*kernel \(workers 1\)"):
        two.call(attempts.drift, str(tmp_path))
    log = CommitLog(Store(str(tmp_path)))
    log.refresh()
    assert log.checkpoints() == []


def test_a_stage_of_another_kind_is_refused(one, tmp_path):
    one.call(attempts.alternate, str(tmp_path), None)
    with pytest.raises(WorkerFailed, match="kind was 'steps', now 'fit'"):
        one.call(attempts.train, str(tmp_path), None, 9)


def test_other_rows_in_a_step_are_refused_by_name(one, tmp_path):
    one.call(attempts.train, str(tmp_path), None, 1)
    with pytest.raises(WorkerFailed, match="begun with other batch_size: batch_size was 8, now 9"):
        one.call(attempts.train, str(tmp_path), None, 2, None, 1, {"batch_size": 9})
    with pytest.raises(WorkerFailed, match="begun with other data and validation data"):
        one.call(attempts.train, str(tmp_path), None, 2, None, 1, {"sample_weight": attempts.WEIGHTS + 1.0})


def test_a_run_keeps_to_the_compiler_it_was_begun_with(one, tmp_path):
    one.call(attempts.compiled, str(tmp_path), True, 1, 1)
    with pytest.raises(WorkerFailed, match="compiler was 'XLA', now 'TensorFlow'"):
        one.call(attempts.compiled, str(tmp_path), False, 1, 2)


def test_a_run_that_may_have_several_workers_does_without_xla_on_one_too(one, tmp_path):
    one.call(attempts.compiled, str(tmp_path), True, (1, 2), 1)
    one.call(attempts.compiled, str(tmp_path), False, (1, 2), 2)  # no other compiler than before


def test_a_run_on_several_devices_of_one_process_has_its_scalars_at_its_steps(one, tmp_path):
    (history,) = one.call(attempts.on_replicas, str(tmp_path))
    accumulator = EventAccumulator(str(tmp_path / "logs/train"), size_guidance={"tensors": 0})
    accumulator.Reload()
    steps = [event.step for event in accumulator.Tensors("epoch_loss")]
    batches = -(-len(attempts.X) // 32)  # Keras's default
    assert steps == [batches, 2 * batches] and len(history["loss"]) == 2


def test_the_chief_s_clock_asks_for_checkpoints_and_all_workers_save_the_same_step(two, tmp_path):
    # Every checkpoint is old enough after a microsecond, so one is due after each step.
    two.call(attempts.train, str(tmp_path), ("batch_end", 1, 1), 5, {"save_every_seconds": 1e-6, "keep": 100})
    log = CommitLog(Store(str(tmp_path)))
    log.refresh()
    places = [(entry.body["step"], entry.body["epoch"], entry.body["batch"]) for entry in reversed(log.checkpoints())]
    assert places == [(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 0, 4), (5, 1, 0), (6, 1, 1)]
