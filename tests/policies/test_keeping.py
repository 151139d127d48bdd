"""Which checkpoints stay, as tables; newest first."""

import math

from hypothesis import given
from hypothesis import strategies as some

from service.policies.keeping import KeepPolicy, Mark, policy_of


def marks(*losses, first=1):
    numbered = [
        Mark(number, 10 * number, {} if loss is None else {"val_loss": loss}) for number, loss in enumerate(losses, first)
    ]
    return numbered[::-1]


def test_the_newest_stay():
    assert KeepPolicy(last=2).kept(marks(5.0, 1.0, 2.0, 3.0)) == {3, 4}


def test_the_best_stays_however_old():
    assert KeepPolicy(last=1, best="val_loss").kept(marks(5.0, 1.0, 2.0, 3.0)) == {2, 4}
    assert KeepPolicy(last=1, best="val_loss", mode="max").kept(marks(5.0, 1.0, 2.0, 3.0)) == {1, 4}


def test_of_equal_ones_the_newest_is_the_best():
    assert KeepPolicy(last=1, best="val_loss").kept(marks(1.0, 1.0, 2.0)) == {2, 3}


def test_nan_and_nothing_are_never_the_best():
    assert KeepPolicy(last=1, best="val_loss").kept(marks(math.nan, None, 7.0, None)) == {3, 4}
    assert KeepPolicy(last=1, best="val_loss").kept(marks(math.nan, None)) == {2}


def test_every_nth_stays_for_good():
    assert KeepPolicy(last=1, every_steps=30).kept(marks(*[None] * 7)) == {3, 6, 7}


def test_a_run_s_option_says_which_way_is_better():
    assert policy_of(3, "max:val_accuracy", None) == KeepPolicy(3, "val_accuracy", "max")
    assert policy_of(3, "val_loss", 10) == KeepPolicy(3, "val_loss", "min", 10)


@given(some.lists(some.none() | some.floats(), min_size=1, max_size=30), some.integers(1, 5), some.sampled_from(["min", "max"]))
def test_the_newest_and_the_best_are_never_deleted(losses, last, mode):
    saved = marks(*losses)
    kept = KeepPolicy(last, "val_loss", mode).kept(saved)
    assert {mark.number for mark in saved[:last]} <= kept <= {mark.number for mark in saved}
    assert len(kept) <= last + 1
    finite = [loss for loss in losses if loss is not None and not math.isnan(loss)]
    if finite:
        best = min(finite) if mode == "min" else max(finite)
        assert any(mark.metrics.get("val_loss") == best for mark in saved if mark.number in kept)
