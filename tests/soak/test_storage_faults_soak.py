"""A real minute without a bucket, and whole runs in bad weather by many seeds."""

import os

import pytest

from service.storage.retries import Policy
from tests import attempts, outages
from tests.outages import STEPS, alarms, check_whole, same, steps_of
from tests.storage.conftest import gcs_address  # noqa: F401  (a fixture)
from tests.storage.wire import Weather, wired_to
from tests.test_attempt import same as same_in_all
from tests.test_storage_faults import PATIENT, bucket, stores, whole  # noqa: F401  (two are fixtures)

pytestmark = [pytest.mark.processes, pytest.mark.soak, pytest.mark.timeout(900)]
OUTAGE_SECONDS = 60


@pytest.mark.parametrize("fault", ["reset", "late", 503])
def test_a_minute_without_the_bucket_costs_no_step_and_saving_resumes(two, whole, bucket, tmp_path, fault):  # noqa: F811
    away = str(tmp_path / "away")
    with wired_to(bucket[0], lambda command, path: fault if os.path.exists(away) else None) as (_, address):
        store, straight = stores(bucket, address, Policy())
        # A save waits 10 s for the one before at the most. The 15 steps from 7 to 22 take a minute, and the 8 after
        # them 32 s, longer than the 20 s that may lie between two tries.
        acts = {7: (outages.touch, away), 22: (os.remove, away)}
        left = two.call(outages.train, store, acts, 7, OUTAGE_SECONDS / 15, None, 10.0)
    for mine, other in zip(left, whole, strict=True):
        assert mine["error"] == ""
        same(mine, other)
    assert [line.partition(":")[0] for line in alarms(left[0]["printed"])] == [
        *("Saving fails, and is tried again", "Saving works again"),
    ]
    saved = steps_of(straight)
    assert saved[:3] == [2, 4, 6] and not {*range(10, 22)} & {*saved}
    assert any(22 <= step < STEPS for step in saved) and saved[-1] == STEPS
    check_whole(straight)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_three_calls_in_ten_fail_the_bits_are_those_of_a_whole_run(two, bucket, tmp_path, seed):  # noqa: F811
    undisturbed = two.call(attempts.train, str(tmp_path), None, 3)
    with wired_to(bucket[0], Weather(seed)) as (_, address):
        store, straight = stores(bucket, address, PATIENT)
        saves = {"save_every_steps": 2, "keep": 3}
        moment = ("batch_end", 1, 3)
        assert two.call(attempts.train, store, moment, 3, saves) == [str(moment)] * 2
        left = two.call(attempts.train, store, None, 3, saves)
    for mine, other in zip(left, undisturbed, strict=True):
        same_in_all(dict(mine), dict(other))
    check_whole(straight)
