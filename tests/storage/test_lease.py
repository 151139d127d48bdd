import errno
import json

import pytest

from service.errors import StorageAway, StorageError, Superseded
from service.storage import layout
from service.storage.lease import Lease
from tests.storage.faults import Clock, faulty_store


class Drivers(Clock):
    """A clock whose every second some lease is renewed, as a live driver's thread does."""

    alive = None

    def sleep(self, seconds):
        super().sleep(seconds)
        if self.alive:
            self.alive.renew()


@pytest.fixture
def clock():
    return Drivers()


def lease(store, clock, name="first", **more):
    return Lease(store, {"host": name, "pid": 7, "since": "noon"}, clock=clock, sleep=clock.sleep, **more)


def test_a_free_lease_is_taken_at_once(store, clock):
    lease(store, clock).acquire()
    assert clock.sleeps == []
    assert json.loads(store.read(layout.LEASE))["owner"]["host"] == "first"


def test_a_live_owner_is_named_and_keeps_its_lease(memory, clock):
    first = clock.alive = lease(memory, clock)
    first.acquire()
    with pytest.raises(StorageError, match=f"{memory.url} is being trained by host first, pid 7, since noon. Stop that one"):
        lease(memory, clock, "second").acquire()
    assert clock.now == pytest.approx(3.0)  # a tenth of 30 s: the first change is proof enough
    first.renew()


def test_a_dead_owners_lease_is_free_after_it_did_not_change_for_its_time(memory, clock):
    first = lease(memory, clock)
    first.acquire()
    clock.now = 1e6  # the reader's clock says nothing about when the lease was written
    lease(memory, clock, "second", ttl_seconds=20.0).acquire()
    assert clock.now == pytest.approx(1e6 + 20.0)
    with pytest.raises(Superseded, match="taken over by host second"):
        first.renew()


def test_a_second_driver_waits_for_the_first_to_let_go(memory, clock):
    first = clock.alive = lease(memory, clock)
    first.acquire()

    class Releasing(Drivers):
        def sleep(self, seconds):
            super().sleep(seconds)
            if self.now >= 100.0:
                self.alive.release()
            else:
                self.alive.renew()

    waiting = Releasing()
    waiting.alive = first
    lease(memory, waiting, "second").acquire(wait_seconds=1000.0)
    assert 100.0 <= waiting.now <= 103.0


def test_waiting_ends(memory, clock):
    clock.alive = lease(memory, clock)
    clock.alive.acquire()
    with pytest.raises(StorageError, match="host first"):
        lease(memory, clock, "second").acquire(wait_seconds=60.0)
    assert 60.0 <= clock.now <= 63.0


def test_a_released_lease_is_taken_at_once_and_only_its_owner_releases_it(memory, clock):
    first, second = lease(memory, clock), lease(memory, clock, "second")
    first.acquire()
    second.release()
    assert memory.exists(layout.LEASE)
    first.release()
    second.acquire()
    assert clock.sleeps == []
    with pytest.raises(Superseded, match="host second"):
        first.renew()


@pytest.mark.parametrize("content", [b"", b"junk", b"[]", b'{"owner": 3}', b'{"owner": {}}', b"[" * 50_000, b"\xff"])
def test_a_damaged_lease_is_nobodys_after_its_time(content, memory, clock):
    memory.write(layout.LEASE, content)
    lease(memory, clock).acquire()
    assert clock.now == pytest.approx(30.0)


def test_a_damaged_lease_that_changes_belongs_to_somebody(memory, clock):
    memory.write(layout.LEASE, b"junk 0")

    class Writing(Clock):
        def sleep(self, seconds):
            super().sleep(seconds)
            memory.write(layout.LEASE, b"junk %d" % len(self.sleeps))

    writing = Writing()
    with pytest.raises(StorageError, match="being trained by another driver"):
        lease(memory, writing).acquire()


def test_the_default_owner_is_this_process(memory):
    import os

    owner = Lease(memory).owner
    assert owner.keys() == {"host", "pid", "since"} and owner["pid"] == os.getpid()


def test_a_renewal_waits_less_than_others_do_before_they_take_the_lease(tmp_path, clock):
    store, place = faulty_store(str(tmp_path))
    store._retry = type(store._retry)(clock=clock, sleep=clock.sleep)
    mine = lease(store, clock, ttl_seconds=12.0)
    mine.acquire()
    place.at, place.way = len(place.calls) + 1, "down"
    before = clock.now
    with pytest.raises(StorageAway):
        mine.renew()
    assert clock.now - before <= 3.0
    place.at = 0
    mine.renew()


@pytest.mark.parametrize("error", [ConnectionResetError("lost"), OSError(errno.EROFS, "read-only")])
def test_letting_go_where_the_storage_fails_hides_no_error_of_the_run(tmp_path, clock, error):
    store, place = faulty_store(str(tmp_path))
    mine = lease(store, clock)
    mine.acquire()
    place.at, place.way, place.error = len(place.calls) + 1, "down", error
    mine.release()
