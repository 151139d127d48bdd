"""When a worker is stuck, as tables and over thousands of steps."""

import random

import pytest

from service.policies.stalling import OUTSIDE, Beat, StallPolicy

POLICY = StallPolicy(stall_seconds=600)
FAST = [0.01] * 50


@pytest.mark.parametrize(
    ("recent", "seconds"),
    [
        ([], 600),  # no step is known yet
        ([0.01, 0.02], 10),  # 5 times the slowest is less
        ([1.0, 4.0, 2.0], 20),  # 5 times the slowest
        ([300.0], 600),  # never longer than anything else may take
    ],
)
def test_a_step_may_take_five_times_the_slowest_recent_one_but_ten_seconds_at_least(recent, seconds):
    assert POLICY.step_seconds(recent) == seconds


@pytest.mark.parametrize(
    ("mine", "others", "is_stuck"),
    [
        (Beat("step", 9.9), [Beat("step", 9.9)], False),
        (Beat("step", 10.1), [Beat("step", 10.1)], True),  # all wait in a collective that never ends
        (Beat("step", 10.1), [Beat("step", 0.2, age=10.1)], True),  # the other one was stopped from outside
        (Beat("step", 10.1), [], True),
        (Beat("step", 60), [Beat("a callback", 60)], False),  # it saves, or compiles: it may
        (Beat("step", 601), [Beat("a callback", 601)], True),
        (Beat("step", 60), [Beat("a callback", 60, age=11)], True),  # was busy, and has told nothing since
        (Beat("step", 6000), [Beat(OUTSIDE, 6000)], False),  # it has not come to the step yet, and says so
        (Beat(OUTSIDE, 6000), [Beat("step", 6000)], False),  # the author's own code has no limit
        (Beat("a callback", 599), [Beat("step", 599)], False),
        (Beat("a callback", 601), [Beat("step", 601)], True),
    ],
)
def test_who_is_stuck(mine, others, is_stuck):
    assert bool(POLICY.problem(mine, others, FAST)) == is_stuck


def test_what_is_wrong_is_said():
    assert POLICY.problem(Beat("step", 11), [], [1.0]) == "a step takes longer than 10 s"
    assert POLICY.problem(Beat("compiling a step", 601), [], []) == "compiling a step takes longer than 600 s"


@pytest.mark.parametrize("step_seconds", [0.01, 2.0, 8.0])
def test_stragglers_three_times_as_slow_are_no_alarm_in_5000_steps(step_seconds):
    draw = random.Random(3)
    recent: list[float] = []
    for _ in range(5000):
        slowest = max(step_seconds * draw.choice([1, 1, 1, 3]) * draw.uniform(0.8, 1.2) for _ in range(4))
        # Every worker waits in the step for the slowest one, up to its end.
        assert not POLICY.problem(Beat("step", slowest), [Beat("step", slowest)] * 3, recent[-50:])
        recent.append(slowest)
