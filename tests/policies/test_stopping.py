"""When training stops, as tables of numbers."""

import math

import pytest

from service.policies.improving import Better, mode_of
from service.policies.stopping import Stopping, StopPolicy


def stops(values, **how):
    """Returns (the epoch after which training stops, or None; the best epoch) for a number watched epoch by epoch."""
    policy = StopPolicy(Better(how.pop("mode", "min"), how.pop("min_delta", 0.0)), **how)
    known = Stopping()
    for epoch, value in enumerate(values):
        before = known
        known, _ = policy.after(known, epoch, value)
        if known.stopped_epoch != before.stopped_epoch:
            return epoch, known.best_epoch
    return None, known.best_epoch


@pytest.mark.parametrize(
    ("values", "how", "stopped", "best"),
    [
        ([5, 4, 3, 3, 3], {"patience": 2}, 4, 2),  # two epochs, 3 and 4, that are no better than epoch 2
        ([5, 4, 3, 3, 2, 2, 2], {"patience": 2}, 6, 4),  # the 2 ends the waiting
        ([5, 6], {"patience": 0}, 1, 0),  # at the first that is no better
        ([5, 4, 3], {"patience": 0}, None, 2),
        ([1, 2, 3, 3, 2], {"patience": 2, "mode": "max"}, 4, 2),
        ([5, 4.5, 4.6], {"patience": 2, "min_delta": 0.5}, 2, 0),  # 4.5 + 0.5 is not less than 5
        ([5, 4.4, 4.2, 4.1], {"patience": 2, "min_delta": 0.5}, 3, 1),
        ([9, 8, 7, 6], {"patience": 2, "baseline": 7.5}, None, 3),  # better than the baseline at epoch 2, in time
        ([9, 8.9, 8.8, 8.8], {"patience": 3, "baseline": 7.5}, 3, 2),  # better each time, never good enough
        ([1, 2, 3, 4, 5], {"patience": 1, "start_from_epoch": 3}, 4, 3),  # epochs 0 to 2 are not looked at
        ([math.nan, 1, 1], {"patience": 2}, 2, 0),  # nothing is better than NaN
    ],
)
def test_training_stops_after_patience_epochs_without_a_better_number(values, how, stopped, best):
    assert stops(values, **how) == (stopped, best)


def test_training_never_stops_after_the_first_epoch():
    policy = StopPolicy(Better("min"), patience=0)
    assert policy.after(Stopping(best=1.0), 0, 2.0)[0].stopped_epoch == 0


def test_numbers_are_compared_as_keras_compares_them():
    # 1 + 2**-25 is 1 in float32 (24 bits), and not in float64.
    assert not Better("max").than(1 + 2**-25, 1.0)
    assert Better("max", floatx="float64").than(1 + 2**-25, 1.0)
    assert Better("min").than(1.0, 1e39)  # which is infinite in float32


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val_loss", "min"),
        ("val_acc", "max"),
        ("val_b_accuracy", "max"),
        ("a_loss", "min"),
        ("val_auc", "max"),
        ("fmeasure", "max"),
        ("mae", "min"),
    ],
)
def test_auto_is_taken_from_the_name_as_keras_2_did(monitor, mode):
    assert mode_of("auto", monitor) == mode
    assert mode_of("min", monitor) == "min"
