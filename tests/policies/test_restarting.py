"""Machines are lost without end, a step that kills its worker ends the run, and so do failures without progress."""

from service.policies.restarting import Failure, reason_to_end


def lost(checkpoint: int, steps: int = 0, who: str = "worker 1: ActorDiedError", is_machine: bool = False) -> Failure:
    return Failure(who, checkpoint, steps, is_machine)


def test_as_many_failures_as_allowed_start_again_and_one_more_does_not():
    failures = [lost(7), lost(7), lost(7)]
    assert [reason_to_end(failures[:count], 2) for count in (1, 2)] == ["", ""]
    assert "started again 2 times, which is what max_restarts=2 allows" in reason_to_end(failures, 2)


def test_a_new_checkpoint_makes_good_for_all_failures_before_it():
    assert reason_to_end([lost(number) for number in range(1000)], 1) == ""
    assert reason_to_end([lost(7), lost(8), lost(8)], 1) != ""


def test_without_restarts_the_first_failure_ends_the_run():
    assert "max_restarts=0" in reason_to_end([lost(7)], 0)


def test_the_same_worker_lost_in_the_same_step_twice_ends_the_run_whatever_is_allowed():
    assert "twice in the same step, 12 steps into the attempt" in reason_to_end([lost(7, 12), lost(7, 12)], 1000)


def test_what_differs_is_not_the_same_failure():
    first = lost(7, 12)
    for second in (lost(7, 13), lost(8, 12), lost(7, 12, "worker 0: ActorDiedError")):
        assert reason_to_end([first, second], 1000) == ""
    assert reason_to_end([first, lost(7, 3), first], 1000) == "", "not one behind the other"


def test_failures_whose_step_is_not_known_and_machines_are_never_the_same():
    assert reason_to_end([lost(7), lost(7)], 1000) == ""
    assert reason_to_end([lost(7, 12, is_machine=True), lost(7, 12, is_machine=True)], 1000) == ""
