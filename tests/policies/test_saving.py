"""When a checkpoint is due, as tables."""

from service.policies.saving import SavePolicy


def test_steps_are_counted_from_the_first_one():
    policy = SavePolicy(every_steps=4, every_epochs=None)
    assert [step for step in range(1, 14) if policy.is_due_at_step(step)] == [4, 8, 12]
    assert not any(policy.is_due_at_epoch(epoch) for epoch in range(1, 9))


def test_epochs_are_counted_from_the_first_one():
    assert [epoch for epoch in range(1, 8) if SavePolicy(every_epochs=3).is_due_at_epoch(epoch)] == [3, 6]


def test_age_is_the_last_checkpoint_s():
    policy = SavePolicy(every_seconds=60.0)
    assert [age for age in (0.0, 59.9, 60.0, 100.0) if policy.is_due_by_age(age)] == [60.0, 100.0]


def test_what_is_switched_off_is_never_due():
    policy = SavePolicy(every_epochs=None)
    assert not (policy.is_due_at_step(1) or policy.is_due_at_epoch(1) or policy.is_due_by_age(1e9))
