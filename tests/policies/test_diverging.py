"""Which losses are called diverged, how often noise is, and where a run goes back to."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policies.diverging import WINDOW, back_to, problem

STEADY = [1.0, 1.1, 0.9, 1.2, 0.8] * 10  # median 1, median absolute deviation 0.1


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_finite_number_has_diverged_whatever_was_before(loss):
    for recent in ([], STEADY):
        for spike in (None, 1e9):
            assert problem(loss, recent, spike) == f"its loss is {loss}"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_without_a_limit_every_finite_loss_passes(loss):
    assert problem(loss, STEADY, None) == ""


def test_a_loss_above_so_many_spreads_has_diverged_and_the_numbers_are_said():
    # The spread is 1.4826 * 0.1, and 10 of them above the median are 2.4826.
    assert problem(2.48, STEADY, 10) == ""
    assert problem(2.49, STEADY, 10) == (
        "its loss is 2.49, 10 times the usual spread of 0.148 above the median 1 of the 50 steps before"
    )


@given(st.floats(max_value=1.0, allow_nan=False, allow_infinity=False))
def test_a_loss_that_falls_never_has(loss):
    assert problem(loss, STEADY, 1e-9) == ""


def test_fewer_than_20_steps_tell_nothing_of_what_is_usual():
    assert problem(1e9, STEADY[:19], 10) == "" and problem(1e9, STEADY[:20], 10) != ""


def test_a_loss_that_does_not_move_has_a_hundredth_of_itself_as_its_spread():
    for sign in (1, -1):
        constant = [sign * 2.0] * WINDOW
        assert problem(constant[0] + 0.19, constant, 10) == "" and problem(constant[0] + 0.21, constant, 10) != ""


def test_a_loss_that_is_mostly_zero_has_no_spread_so_nothing_finite_is_called_diverged():
    assert problem(5.0, [0.0] * 26 + [0.3] * 24, 10) == ""


@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=WINDOW), st.floats(-1e6, 1e6), st.integers(-20, 20))
def test_the_unit_of_the_loss_does_not_matter(recent, loss, power):
    scale = 2.0**power  # exact, so that both sides compare the same numbers
    assert bool(problem(loss, recent, 10)) == bool(problem(loss * scale, [value * scale for value in recent], 10))


def chance_of_an_alarm(steps: int, spike: float, cut: float) -> float:
    """Returns a bound for normal noise of deviation 1: the loss is `cut` above the median, or the spread is below cut / spike.

    For the second one the median absolute deviation is below d = cut / spike / 1.4826, so that half of the losses lie in a
    window of width 2 d. Moved up to its lowest loss, it still holds the others, steps / 2 - 1 of them. Whichever loss that
    is, the rest are independent, and no window of that width is likelier than the middle one.
    """
    width = cut / spike / 1.4826
    likely = math.erf(width / math.sqrt(2))
    least = math.ceil(steps / 2) - 1
    others = steps - 1
    crowded = sum(math.comb(others, k) * likely**k * (1 - likely) ** (others - k) for k in range(least, others + 1))
    # The median of n normal losses is normal too, nearly, with variance pi / (2 n): below 1.1 in all with the loss's own 1.
    far = math.erfc(cut / math.sqrt(1.1) / math.sqrt(2)) / 2
    return far + steps * crowded


def test_normal_noise_is_no_alarm_in_30_000_steps():
    # With the full window and a limit of 20 spreads less than 1 step in 1,000,000, so in 30,000 steps hardly one.
    assert chance_of_an_alarm(WINDOW, 20, 5.3) < 1e-6
    draw = random.Random(3)
    losses = [draw.gauss(0, 1) for _ in range(WINDOW)]  # around 0, where the floor does not help
    alarms = 0
    for _ in range(30_000):
        losses.append(draw.gauss(0, 1))
        alarms += bool(problem(losses[-1], losses[-WINDOW - 1 : -1], 20))
    assert alarms == 0


GOOD = [(9, 40), (7, 30), (4, 20)]


def test_training_goes_back_to_the_newest_good_checkpoint():
    assert back_to(GOOD, 41, 0) == 9  # the first step behind it
    assert back_to(GOOD, 60, 0) == 9
    assert back_to(GOOD, 60, 2) == 9  # went back to it twice, and came further than a few steps
    assert back_to(GOOD, 44, 1) == 9  # three steps were good


@pytest.mark.parametrize("step", [41, 42, 43])
def test_what_diverges_again_within_three_steps_goes_back_to_the_one_before(step):
    assert back_to(GOOD, step, 1) == 7
    assert back_to(GOOD[1:], 31, 2) == 4
    assert back_to(GOOD[2:], 21, 3) == 0


def test_without_a_good_checkpoint_training_begins_anew():
    assert back_to([], 1, 0) == back_to([], 1, 5) == back_to([], 500, 1) == 0


def test_one_of_an_earlier_step_is_taken_not_another_of_the_same():
    assert back_to([(12, 40), (9, 40), (7, 30)], 41, 1) == 7
    assert back_to([(12, 40), (9, 40)], 41, 1) == 0
