"""When the learning rate is reduced, as tables of numbers."""

import pytest

from service.policies.improving import Better
from service.policies.rates import Plateau, ReducePolicy


def rates(values, rate=1.0, **how):
    """Returns the rate after each epoch, for a number watched epoch by epoch."""
    policy = ReducePolicy(Better(how.pop("mode", "min"), how.pop("min_delta", 0.0)), **how)
    known, found = Plateau(), [rate]
    for value in values:
        known, (rate,) = policy.after(known, value, [rate])
        found.append(rate)
    return found[1:]


@pytest.mark.parametrize(
    ("values", "how", "after"),
    [
        ([5, 5, 5], {"patience": 2, "factor": 0.5}, [1, 1, 0.5]),  # epochs 1 and 2 are no better than 0
        ([5, 5, 4, 4, 4], {"patience": 2, "factor": 0.5}, [1, 1, 1, 1, 0.5]),
        ([5, 5, 5, 5], {"patience": 1, "factor": 0.5}, [1, 0.5, 0.25, 0.125]),
        # After the reduction one epoch of cooldown passes uncounted, and the one after it counts again.
        ([5, 5, 5, 5, 5], {"patience": 2, "factor": 0.5, "cooldown": 2}, [1, 1, 0.5, 0.5, 0.5]),
        ([5, 5, 5, 5, 5, 5], {"patience": 2, "factor": 0.5, "cooldown": 1}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        ([5, 5, 5, 5], {"patience": 1, "factor": 0.5, "min_rate": 0.3}, [1, 0.5, 0.3, 0.3]),
        ([1, 1, 2], {"patience": 1, "factor": 0.5, "mode": "max"}, [1, 0.5, 0.5]),
        ([5, 4.95, 4.9], {"patience": 1, "factor": 0.5, "min_delta": 0.2}, [1, 0.5, 0.25]),
    ],
)
def test_the_rate_is_reduced_after_patience_epochs_without_a_better_number(values, how, after):
    assert rates(values, **how) == after


def test_a_rate_that_is_at_its_minimum_in_float32_is_not_reduced_again():
    policy = ReducePolicy(Better("min"), factor=0.5, patience=1, min_rate=0.1)
    held = 0.10000000149011612  # what a float32 variable makes of 0.1
    assert policy.after(Plateau(best=1.0), 2.0, [held]) == (Plateau(1, 1.0, 0), [held])


def test_of_several_optimizers_each_rate_is_reduced():
    policy = ReducePolicy(Better("min"), factor=0.5, patience=1, min_rate=0.1)
    assert policy.after(Plateau(best=1.0), 2.0, [1.0, 0.05]) == (Plateau(0, 1.0, 0), [0.5, 0.05])
