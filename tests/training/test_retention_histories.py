"""Random lives of a run: the last, the best and the pinned checkpoints stay, and there is always one to go on from."""

import itertools
import math
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.cluster.consensus import Council
from service.errors import Corrupt, StorageError, Superseded
from service.policies.keeping import KeepPolicy
from service.storage import layout, receipts, restore, retention, shards
from service.storage.commits import CommitLog
from service.storage.pieces import Piece
from service.storage.store import Store
from service.training.saver import Saver
from service.training.state import Snapshot
from tests.storage.faults import PATIENT, Died, Faulty, Stale, faulty_store, same, tensors_at

VALUES = (0.0, 1.0, 1.0, 2.0, -1.0, math.nan, math.inf, -math.inf, None)  # None: the metric is not there
POLICIES = st.builds(
    KeepPolicy,
    st.integers(1, 3),
    st.sampled_from([None, "loss"]),
    st.sampled_from(["min", "max"]),
    st.sampled_from([None, 2, 3]),
)
METRIC, CALL = st.sampled_from(VALUES), st.integers(1, 7)
ACTIONS = st.one_of(
    st.tuples(st.just("save"), METRIC),
    st.tuples(st.just("save"), METRIC),
    st.tuples(st.just("save the last of a stage"), METRIC),
    st.tuples(st.just("save, faulty"), st.tuples(METRIC, CALL, st.sampled_from(Faulty.WAYS))),
    st.tuples(st.just("save, no deletion succeeds"), METRIC),
    st.tuples(st.just("write without commit"), st.none()),
    st.tuples(st.just("begin to write"), st.none()),
    st.tuples(st.just("commit what was begun"), METRIC),
    st.tuples(st.just("sweep"), st.none()),
    st.tuples(st.just("sweep, faulty"), st.tuples(CALL, st.sampled_from(Faulty.WAYS))),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("an old attempt saves"), METRIC),
    st.tuples(st.just("an old attempt keeps one"), st.none()),
    st.tuples(st.just("an old attempt sweeps"), st.none()),
    st.tuples(st.just("an old attempt reads"), st.none()),
    st.tuples(st.just("listings stop"), st.booleans()),
)

COUNTS = {"histories": 0, "actions": 0, "commits": 0, "deleted": 0, "faults": 0, "deaths": 0}


class Keeping(Faulty):
    """A place that removes nothing."""

    def __getattr__(self, name):
        if name != "delete":
            return getattr(self.place, name)

        def refuse(path):
            raise PermissionError(f"may not delete {path}")

        return refuse


class Life:
    """A run, beside what was committed of it.

    Attributes:
        committed: of each checkpoint, by number: its step, metric, stage, and whether its stage ended with it.
    """

    def __init__(self, policy):
        self.policy, self.committed = policy, {}
        self.base, _ = faulty_store("memory://life")
        for path in self.base.list():
            self.base.delete(path)
        self.place = Stale(self.base._here())
        self.step, self.stage, self.begun = 0, 1, None
        self.torn = 0  # writes that a place left half done, which may be entries
        self.attempts = []
        self.restart()

    def store(self):
        return Store(self.base.url, retry=PATIENT, connect=lambda url, options: self.place)

    def restart(self):
        log = CommitLog.open(self.store(), f"a{len(self.attempts)}")
        hours = itertools.count(0.0, 3600.0)  # between two saves: each is tried, whatever became of the one before
        self.attempts.append((log, Saver(log.store, log, log.attempt, Council(), self.policy, clock=hours.__next__)))
        self.begun = None

    def do(self, action, value):
        log, saver = self.attempts[-1]
        old = self.attempts[-2] if len(self.attempts) > 1 else None
        match action:
            case "save":
                self.save(log, saver, value)
            case "save the last of a stage":
                self.save(log, saver, value, final=True)
                self.stage += 1
            case "save, faulty":
                metric, at, way = value
                self.torn += way == "torn"
                self.faulty(faulty_store(self.base.url, at, way)[0], lambda: self.save(log, saver, metric))
            case "save, no deletion succeeds":
                place = Keeping(self.base._here())
                keeping = Store(self.base.url, retry=PATIENT, connect=lambda url, options: place)
                self.faulty(keeping, lambda: self.save(log, saver, value))
            case "write without commit":
                shards.write_shards(log.store, log.attempt, tensors_at(self.step + 1), [Piece("step", 0, 1)])
            case "begin to write":
                saved = log.checkpoints()
                written = saved[0].body["shards"] if saved else ()
                everything = [Piece("table", 0, 64), Piece("weights", 0, 35), Piece("step", 0, 1)]
                self.begun = self.step, shards.write_shards(log.store, log.attempt, tensors_at(self.step), everything, written)
            case "commit what was begun" if self.begun:
                step, written = self.begun
                self.append(log, {"shards": written, **self.about(step, value, False)})
                self.begun = None
            case "sweep":
                retention.sweep(log)
            case "sweep, faulty":
                self.faulty(faulty_store(self.base.url, *value)[0], lambda: retention.sweep(log))
            case "restart":
                self.restart()
            case "listings stop":
                self.place.frozen = None
                if value:
                    self.place.freeze()
            case "an old attempt saves" if old:
                with pytest.raises(Superseded):
                    self.save(*old, value)
            case "an old attempt keeps one" if old and retention.surplus(old[0], 1):
                with pytest.raises(Superseded):
                    retention.delete(old[0], retention.surplus(old[0], 1))
            case "an old attempt sweeps" if old:
                retention.sweep(old[0])
            case "an old attempt reads" if old:
                old[0].refresh()

    def about(self, step, metric, final):
        metrics = {} if metric is None else {"loss": metric}
        return {"stage": self.stage, "step": step, "epoch": 0, "final": final, "metrics": metrics, "state": {}}

    def save(self, log, saver, metric, final=False):
        """Saves as training does: in the saver's thread, with the policy's deletions behind the commit."""
        self.step += 1
        saver.save(Snapshot(tensors_at(self.step)), self.about(self.step, metric, final))
        saver.wait()

    def append(self, log, body):
        try:
            log.append("checkpoint", body)
        except StorageError as error:
            assert not isinstance(error, Superseded) and "which was deleted" in str(error)

    def faulty(self, store, action):
        """Acts on a storage that fails; a dead attempt is followed by a new one, any other goes on."""
        log, saver = self.attempts[-1]
        mine, log.store = log.store, store
        saver._committer._store = store
        COUNTS["faults"] += 1
        try:
            action()
        except Died:
            COUNTS["deaths"] += 1
            log.store = saver._committer._store = mine
            self.restart()
        except StorageError as error:
            assert not isinstance(error, Superseded)
        log.store = saver._committer._store = mine

    def check(self):
        """Raises unless all that must stay is there, as a new reader finds it."""
        log = CommitLog(self.base)
        log.refresh()
        assert not log.damaged.keys() & self.committed.keys() and len(log.damaged) <= self.torn
        alive = {entry.number: entry for entry in log.checkpoints()}
        for number in alive.keys() - self.committed.keys():
            self.committed[number] = alive[number].body
            COUNTS["commits"] += 1
        files = self.base.sizes(layout.SHARDS).keys()
        for entry in alive.values():
            assert receipts.files(entry.body["shards"]) <= files
        assert must_stay(self.policy, self.committed) <= alive.keys()
        return log

    def check_bytes(self):
        """Raises unless every checkpoint that counts is restored bit by bit, and the newest of all is the one to go on from."""
        log = self.check()
        for entry in log.checkpoints():
            assert same(restore.one(log, entry.number).tensors, entry.body["step"])
        if log.damaged and not self.committed:  # what cannot be read may have been the first checkpoint
            with pytest.raises(Corrupt, match="No checkpoint"):
                restore.newest(log)
            return
        found = restore.newest(log)
        assert (found.entry.number if found else 0) == max(self.committed, default=0)


def must_stay(policy, committed):
    """Returns the numbers of all checkpoints there ever were that must be there still, in plain words of the promise."""
    numbers = sorted(committed, reverse=True)
    stay = {*numbers[: policy.last]}
    stay |= {n for n in numbers if policy.every_steps and committed[n]["step"] % policy.every_steps == 0}
    rated = [n for n in numbers if not math.isnan(committed[n]["metrics"].get("loss", math.nan))]
    if policy.best and rated:
        values = [committed[n]["metrics"]["loss"] for n in rated]
        best = min(values) if policy.mode == "min" else max(values)
        stay.add(rated[values.index(best)])
    for stage in {body["stage"] for body in committed.values()}:
        for final in (True, False):
            stay |= {*[n for n in numbers if (committed[n]["stage"], committed[n]["final"]) == (stage, final)][:1]}
    return stay


def live(policy, actions):
    life = Life(policy)
    for action, value in actions:
        life.do(action, value)
        life.check()
    life.place.frozen = None
    life.check_bytes()
    life.restart()
    retention.sweep(life.attempts[-1][0])
    life.check_bytes()
    named = {file for entry in life.attempts[-1][0].checkpoints() for file in receipts.files(entry.body["shards"])}
    if not life.torn:  # else nothing goes, as long as an entry that cannot be read may need it
        assert {*life.base.list(layout.SHARDS)} == named  # and nothing is left behind
    COUNTS["histories"] += 1
    COUNTS["actions"] += len(actions)
    COUNTS["deleted"] += len(life.committed) - len(life.attempts[-1][0].checkpoints())


def test_what_a_dead_attempt_left_goes_behind_the_next_one_s_first_checkpoint():
    life = Life(KeepPolicy(2))
    life.do("save", 1.0)
    life.do("write without commit", None)
    left = {*life.base.list(layout.SHARDS)}
    life.do("save", 1.0)
    assert left <= {*life.base.list(layout.SHARDS)}  # an attempt's own files are left alone: they may be in flight
    life.restart()
    life.do("save", 1.0)
    named = {file for entry in life.check().checkpoints() for file in receipts.files(entry.body["shards"])}
    assert {*life.base.list(layout.SHARDS)} == named and len(left - named) == 1


def campaign(histories):
    COUNTS.update(dict.fromkeys(COUNTS, 0))
    began = time.perf_counter()
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
    drawn = given(POLICIES, st.lists(ACTIONS, min_size=4, max_size=16))
    settings(max_examples=histories, deadline=None, derandomize=True, suppress_health_check=quiet)(drawn(live))()
    print(
        f"{COUNTS['histories']} histories of {COUNTS['actions']} actions ({COUNTS['commits']} commits, {COUNTS['faults']} with "
        f"a failing storage, {COUNTS['deaths']} deaths, {COUNTS['deleted']} checkpoints deleted): 0 times the last, best or a "
        f"pinned one was gone, 0 times none could be restored, {time.perf_counter() - began:.0f} s"
    )
    assert COUNTS["histories"] >= histories and min(COUNTS.values()) > 0


def test_whatever_happens_the_last_the_best_and_the_pinned_stay():
    campaign(200)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_in_ten_thousand_histories_the_last_the_best_and_the_pinned_stay():
    campaign(10_000)
