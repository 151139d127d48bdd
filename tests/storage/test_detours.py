"""What a log with divergences says of its checkpoints: which count, which are good, what is left out."""

import pytest

from service.storage import detours, restore
from service.storage.commits import CommitLog


@pytest.fixture
def log(memory):
    return CommitLog.open(memory, "a1")  # entry 1


def save(log, step, stage=1, **more):
    """Commits a checkpoint without tensors; returns its number."""
    body = {"stage": stage, "step": step, "epoch": step // 10, "batch": step % 10, "shards": [], "state": {}, **more}
    return log.append("checkpoint", body).number


def turn(log, step, back_to, skipped=None, stage=1, is_over=False):
    """Commits that a step diverged; with `skipped` the run went back."""
    place = {"stage": stage, "epoch": (step - 1) // 10, "batch": (step - 1) % 10, "step": step}
    told = {"loss": float("nan"), "why": "its loss is nan", "is_over": is_over}
    return log.append("diverged", {**place, **told, "back_to": back_to, "skipped": skipped or []}).number


def numbers(found):
    return [entry.number for entry in found]


def test_what_was_saved_behind_the_checkpoint_gone_back_to_does_not_count(log):
    first, second, third = save(log, 2), save(log, 4), save(log, 6)
    other = save(log, 5, stage=2)
    turn(log, 7, first, [[0, 2], [0, 6]])
    assert detours.left_behind(log) == {second, third}
    assert numbers(detours.counting(log)) == [other, first] and numbers(detours.counting(log, 1)) == [first]
    later = save(log, 4)
    assert numbers(detours.counting(log, 1)) == [later, first], "what came afterwards counts"
    assert restore.newest(log, 1, without=detours.left_behind(log)).entry.number == later


def test_going_back_to_the_beginning_leaves_the_whole_stage_behind_and_no_other(log):
    other, mine = save(log, 5, stage=1), save(log, 5, stage=2)
    turn(log, 6, 0, [[0, 0], [0, 5]], stage=2)
    assert detours.left_behind(log) == {mine} and numbers(detours.counting(log)) == [other]
    assert restore.newest(log, 2, without=detours.left_behind(log)) is None


def test_where_the_run_did_not_go_back_everything_counts(log):
    saved = [save(log, 2), save(log, 4)]
    turn(log, 5, saved[1])
    saved.append(save(log, 6, diverged=True))
    assert numbers(detours.counting(log)) == saved[::-1]
    assert numbers(detours.good(log, 1)) == saved[1::-1], "but what is not undone is not good"


def test_good_is_what_is_finite_and_goes_on(log):
    good = save(log, 2, finite=True)
    save(log, 4, finite=False), save(log, 4, final=True)
    assert numbers(detours.good(log, 1)) == [good]


def test_the_times_in_a_row_are_those_since_the_newest_good_checkpoint(log):
    first = save(log, 2)
    turns = [turn(log, 5, first, [[0, 2], [0, 4]]), turn(log, 7, first, [[0, 2], [0, 8]])]
    assert numbers(detours.in_a_row(log, 1)) == turns and detours.in_a_row(log, 2) == []
    save(log, 2)  # an epoch without any step ended
    assert numbers(detours.in_a_row(log, 1)) == turns
    save(log, 4, finite=False)
    assert numbers(detours.in_a_row(log, 1)) == turns
    save(log, 3)
    assert detours.in_a_row(log, 1) == []


def test_a_run_that_gave_up_may_go_back_as_often_again(log):
    first = save(log, 2)
    turn(log, 5, first, [[0, 2], [0, 4]]), turn(log, 4, first, is_over=True)
    assert detours.in_a_row(log, 1) == []
    again = turn(log, 4, first, [[0, 2], [0, 7]])
    assert numbers(detours.in_a_row(log, 1)) == [again]
    assert detours.skipped(log, 1) == [[[0, 2], [0, 4]], [[0, 2], [0, 7]]] and detours.skipped(log, 2) == []


def test_what_is_left_out_ends_where_training_was_first_said_to_diverge(log):
    first = save(log, 2)
    assert detours.end_of_skip(log, 1, first, [3, 4]) == [3, 4]
    turn(log, 6, first)  # epoch 0, batch 5; training went on from there, for three epochs
    assert detours.end_of_skip(log, 1, first, [3, 4]) == [0, 5]
    assert detours.end_of_skip(log, 1, first, [0, 3]) == [0, 3], "it never goes beyond what diverges now"
    turn(log, 6, first, [[0, 2], [0, 5]])
    assert detours.end_of_skip(log, 1, first, [0, 7]) == [0, 7], "that was undone"
    turn(log, 8, first)
    later = save(log, 30)
    assert detours.end_of_skip(log, 1, later, [3, 4]) == [3, 4], "training recovered from that"
