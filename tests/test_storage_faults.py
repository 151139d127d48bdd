"""Whole runs whose bucket fails on the wire: a share of all calls, an outage, a refusal, a bucket that goes away."""

import os
import uuid

import aiohttp
import pytest

from service import record
from service.cluster.notice import Notice
from service.run import Run
from service.storage import layout, receipts, restore
from service.storage.commits import CommitLog
from service.storage.retries import Policy
from service.storage.store import Store
from tests import attempts, outages
from tests.buckets import gs_options
from tests.outages import STEPS, alarms, check_whole, same, steps_of
from tests.storage.wire import Weather, wired_to
from tests.test_attempt import same as same_in_all

pytestmark = pytest.mark.processes
# The real one waits up to 20 s between two tries, and gives up after 120 s.
PATIENT = Policy(first_seconds=0.05, longest_seconds=0.2, deadline_seconds=60.0)
OUTAGE_SECONDS = 60
HASTY_SECONDS = 0.5  # only during an outage: a busy machine's slow reply where a run opens is none


@pytest.fixture(scope="module")
def whole(two, tmp_path_factory):
    """What each worker's run leaves that nothing disturbs."""
    return two.call(outages.train, Store(str(tmp_path_factory.mktemp("whole"))))


@pytest.fixture
def bucket(gcs_address):
    """A bucket of its own: the server's address and the bucket's name."""
    found = gcs_address, f"bucket-{uuid.uuid4().hex}"
    outages.create_bucket(*found)
    return found


def stores(bucket, wired_address, retry=PATIENT):
    """Returns the run's store by way of a wire, and straight, with the run's record."""
    address, name = bucket
    url = f"gs://{name}/runs/test"
    straight = Store(url, **gs_options(address))
    record.begin(straight, Run("test", f"gs://{name}/runs", workers=2, seed=5), "tests.outages:train", {}, "")
    impatient = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=0.2)
    return Store(url, retry=retry, requests_timeout=impatient, **gs_options(wired_address)), straight


def test_a_run_whose_bucket_fails_three_calls_in_ten_ends_with_the_bits_of_a_whole_one(two, whole, bucket):
    weather = Weather(7)
    with wired_to(bucket[0], weather) as (_, address):
        store, straight = stores(bucket, address)
        first = two.call(outages.train, store, None, STEPS, 0.0, None, 0.4, 3)
        # The second attempt opens the log and restores in the same weather.
        second = two.call(outages.train, store)
    assert [left["error"] for left in (*first, *second)] == [""] * 4
    for mine, other in zip(second, whole, strict=True):
        same(mine, other)
    assert {kind for kind, count in weather.seen.items() if count} == {"well", 429, 503, "reset", "lost", "cut", "late", "old"}
    assert steps_of(straight)[-1] == STEPS
    check_whole(straight)


def test_an_outage_of_a_bucket_costs_no_step_and_saving_resumes_after_it(two, whole, bucket, tmp_path):
    away = str(tmp_path / "away")
    with wired_to(bucket[0], lambda command, path: "reset" if os.path.exists(away) else None) as (_, address):
        store, straight = stores(bucket, address)
        acts = {7: (outages.touch, away), 16: (os.remove, away)}
        left = two.call(outages.train, store, acts, 8)
    for mine, other in zip(left, whole, strict=True):
        assert mine["error"] == ""
        same(mine, other)
    # The save of step 8 is tried all the time; 10, 12 and on are left out, and made up for after the outage's end.
    said = alarms(left[0]["printed"])
    assert [line.partition(":")[0] for line in said] == ["Saving fails, and is tried again", "Saving works again"]
    assert "Training goes on. The newest committed step is 6;" in left[0]["printed"] and alarms(left[1]["printed"]) == []
    saved = steps_of(straight)
    assert saved[:3] == [2, 4, 6] and not {10, 12, 14} & set(saved) and saved[-1] == STEPS
    assert any(16 <= step < STEPS for step in saved)
    check_whole(straight)


def test_an_outage_that_does_not_end_leaves_an_error_that_names_what_is_lost(two, whole, bucket, tmp_path):
    away = str(tmp_path / "away")
    with wired_to(bucket[0], lambda command, path: 503 if os.path.exists(away) else None) as (_, address):
        store, straight = stores(bucket, address)
        left = two.call(outages.train, store, {14: (outages.touch, away)}, 14, 0.1, None, 0.4, outages.EPOCHS, HASTY_SECONDS)
        for mine, other in zip(left, whole, strict=True):
            assert "StorageError: The storage failed, so the steps after 12 of 30 are not saved: " in mine["error"]
            assert (
                f"The newest committed step of {store.url} is 12. Once the storage is mended, the same command" in mine["error"]
            )
            same(mine, other)  # trained to its end all the same
        assert "history.csv" in left[0]["error"] and "history.json" in left[0]["error"]
        assert len(alarms(left[0]["printed"])) == 1
        os.remove(away)
        for mine, other in zip(two.call(outages.train, store), whole, strict=True):
            assert mine["error"] == ""
            same(mine, other)
    check_whole(straight)


@pytest.mark.soak  # a disk that becomes read-only stands for it in tests/test_disks.py
def test_permissions_that_are_lost_half_way_and_given_back_cost_the_checkpoints_between(two, whole, bucket, tmp_path):
    taken = str(tmp_path / "taken")
    with wired_to(bucket[0], lambda command, path: 403 if os.path.exists(taken) and command != "GET" else None) as (_, address):
        store, straight = stores(bucket, address)
        left = two.call(outages.train, store, {9: (outages.touch, taken), 15: (os.remove, taken)}, 9)
    for mine, other in zip(left, whole, strict=True):
        assert mine["error"] == ""
        same(mine, other)
    first, last = alarms(left[0]["printed"])
    assert "Forbidden" in first and last.startswith("Saving works again: step ")
    saved = steps_of(straight)
    assert not {10, 12, 14} & set(saved) and any(15 <= step < STEPS for step in saved)
    check_whole(straight)


@pytest.mark.soak
def test_a_bucket_that_is_deleted_half_way_lets_training_go_on_to_an_error_at_its_end(two, whole, bucket):
    with wired_to(bucket[0]) as (_, address):
        store, straight = stores(bucket, address)
        left = two.call(outages.train, store, {9: (outages.delete_bucket, *bucket)})
        for mine, other in zip(left, whole, strict=True):
            assert "the steps after 8 of 30 are not saved: " in mine["error"] and "Create the bucket" in mine["error"]
            same(mine, other)
        outages.create_bucket(*bucket)
        # All that was saved went with the bucket, so it begins anew; and the bucket goes, and comes back empty.
        acts = {9: (outages.delete_bucket, *bucket), 15: (outages.create_bucket, *bucket)}
        left = two.call(outages.train, store, acts, 9)
    for mine, other in zip(left, whole, strict=True):
        assert mine["error"] == ""
        same(mine, other)
    log = CommitLog(straight)
    log.refresh()
    saved = [entry.body["step"] for entry in log.checkpoints()]
    assert saved[0] == STEPS and any(15 <= step < STEPS for step in saved)
    # None refers to files that went with the bucket.
    assert all(restore.one(log, entry.number).tensors for entry in log.checkpoints())


@pytest.mark.parametrize("index", [pytest.param(0, marks=pytest.mark.soak), 1])
def test_a_worker_that_cannot_write_is_named_and_nobody_waits_for_it(two, whole, tmp_path, index):
    marker = str(tmp_path / "refused")
    store = Store(str(tmp_path / "run"), connect=outages.OnWorker(index, marker))
    left = two.call(outages.train, store, {9: (outages.touch, marker), 15: (os.remove, marker)}, 9)
    for mine, other in zip(left, whole, strict=True):
        assert mine["error"] == ""
        same(mine, other)
    first, last = alarms(left[0]["printed"])
    assert first.startswith(f'Saving fails, and is tried again: Worker {index}: Could not write "shards/')
    assert last.startswith("Saving works again")
    saved = steps_of(store)
    assert not {10, 12, 14} & set(saved) and any(15 <= step < STEPS for step in saved)
    # What the other worker wrote in vain is gone too.
    log = CommitLog(store)
    log.refresh()
    assert {*store.list(layout.SHARDS)} == {f for e in log.checkpoints() for f in receipts.files(e.body["shards"])}


@pytest.mark.soak
def test_a_loop_written_by_hand_goes_on_and_makes_up_for_its_checkpoints_too(two, tmp_path):
    undisturbed = two.call(outages.loop, Store(str(tmp_path / "whole")), {}, STEPS)
    marker = str(tmp_path / "refused")
    store = Store(str(tmp_path / "run"), connect=outages.OnWorker(1, marker))
    left = two.call(outages.loop, store, {9: (outages.touch, marker), 15: (os.remove, marker)}, 9)
    for mine, other in zip(left, undisturbed, strict=True):
        assert mine["error"] == ""
        same(mine, other)
    saved = steps_of(store)
    assert not {10, 12, 14} & set(saved) and any(15 <= step < STEPS for step in saved) and saved[-1] == STEPS
    store = Store(str(tmp_path / "lost"), connect=outages.OnWorker(1, marker))
    for mine in two.call(outages.loop, store, {9: (outages.touch, marker)}, STEPS):
        assert "the steps after 8 of 30 are not saved: Worker 1: Could not write" in mine["error"]


def test_an_attempt_that_was_superseded_ends_on_all_workers_and_is_no_fault_of_the_storage(two, tmp_path):
    store = Store(str(tmp_path))
    left = two.call(outages.train, store, {9: (outages.supersede, store)})
    assert all(mine["error"].startswith("Superseded: Attempt ") and alarms(mine["printed"]) == [] for mine in left)
    assert steps_of(store) == [2, 4, 6, 8]


def test_a_run_that_is_asked_to_stop_while_nothing_can_be_saved_names_what_is_lost(two, tmp_path):
    marker = str(tmp_path / "refused")
    store = Store(str(tmp_path / "run"), connect=outages.OnWorker(1, marker))
    left = two.call(outages.train, store, {9: (outages.touch, marker), 13: (Notice.give,)})
    # Asked after step 13's wishes were read: the 14th one carries it.
    lost = "StorageError: The storage failed, so the steps after 8 of 14 are not saved: Worker 1: Could not write"
    assert all(mine["error"].startswith(lost) for mine in left)
    # Workers that make way for others do so all the same: those go on from what there is.
    left = two.call(outages.train, store, {9: (Notice.give_move,)})
    assert [mine["error"] for mine in left] == ["Moved: Committed at step 8 only."] * 2
    os.remove(marker)
    left = two.call(outages.train, store, {13: (Notice.give,)})
    assert all(mine["error"].startswith(f"RunInterrupted: The run {store.url} was asked to stop.") for mine in left)
    assert steps_of(store)[-1] == 14


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", ["reset", "late", 503])
def test_a_minute_without_the_bucket_costs_no_step_and_saving_resumes(two, whole, bucket, tmp_path, fault):
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


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(12))
def test_whatever_three_calls_in_ten_fail_the_bits_are_those_of_a_whole_run(two, bucket, tmp_path, seed):
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
