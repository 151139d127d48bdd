"""What Ray Train's controller hears of its workers: what ends the run, what counts, and what is no failure."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from service.cluster import failures
from service.errors import DataInvalid, JobFailed, Moved, StorageAway, StorageError, WorkersLost


class Relay:
    """Takes what is said to the driver."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.put = SimpleNamespace(remote=self.said.append)


class Group:
    """Two workers; the one that lives answers how many steps it began."""

    def __init__(self, *counts: int) -> None:
        self.counts = list(counts)

    def __len__(self) -> int:
        return 2

    def execute_single_async(self, worker: int, ask: Any) -> int:
        return self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]


@pytest.fixture(autouse=True)
def answers(monkeypatch):
    monkeypatch.setattr(failures.ray, "get", lambda answer, timeout: answer)
    monkeypatch.setattr(failures, "_AGAIN_SECONDS", 0.0)


def died(**how: Any) -> Exception:
    """What Ray Train says of a worker's process that is gone."""
    return WorkerHealthCheckFailedError("a poll failed", RayActorError(**how) if how else ActorDiedError())


def judge_of(max_restarts: int = 3, position: int = 1) -> tuple[Any, Relay]:
    relay = Relay()
    return failures.StopAtErrors(relay, lambda: position, max_restarts, "runs/r"), relay


def poll(judge: Any, group: Group, *polls: dict[int, Exception]) -> None:
    """One group of workers whose errors are heard of in so many polls."""
    judge.after_worker_group_start(group)
    for errors in polls:
        judge.after_worker_group_poll_status(SimpleNamespace(errors=errors))


def test_a_worker_that_dies_in_the_same_step_twice_ends_the_run():
    judge, relay = judge_of(max_restarts=100)
    # The survivor is asked until it begins no more steps: 11 and then 12, where it waits.
    poll(judge, Group(11, 12, 12), {1: died()})
    assert relay.said == ["Lost workers (worker 1: ActorDiedError). All start again from the last checkpoint.\n"]
    with pytest.raises(WorkersLost, match=r"twice in the same step, 12 steps .* The run is runs/r"):
        poll(judge, Group(12), {1: died()})


def test_another_step_is_another_failure():
    judge, relay = judge_of(max_restarts=100)
    for steps in (12, 13, 12):
        poll(judge, Group(steps), {1: died()})
    assert len(relay.said) == 3


def test_a_group_s_failure_counts_once_however_often_it_is_polled():
    judge, relay = judge_of(max_restarts=1)
    poll(judge, Group(5), {}, {1: died()}, {0: OSError(), 1: died()})
    assert len(relay.said) == 1


def test_a_lost_controller_counts_as_lost_workers():
    judge, _ = judge_of(max_restarts=1)
    judge.lost_controller()
    with pytest.raises(WorkersLost, match=r"Ray Train's controller.*max_restarts=1"):
        judge.lost_controller()


@pytest.mark.parametrize("cause", [Moved("at step 5"), died(preempted=True)])
def test_workers_that_make_way_and_machines_taken_away_are_no_failure(cause):
    judge, relay = judge_of(max_restarts=0)
    poll(judge, Group(5), {0: OSError("a lost peer"), 1: cause})
    assert relay.said == []


def test_workers_that_could_not_reach_the_storage_start_again():
    judge, relay = judge_of(max_restarts=1)
    poll(judge, Group(0), {0: StorageAway("no answer for 120 s")})
    assert relay.said == ["Lost workers (worker 0: StorageAway). All start again from the last checkpoint.\n"]


def test_a_storage_that_does_not_answer_tells_of_no_progress():
    relay = Relay()

    def position() -> int:
        raise StorageError("no answer")

    judge = failures.StopAtErrors(relay, position, 1, "runs/r")
    poll(judge, Group(0), {0: OSError()})
    with pytest.raises(WorkersLost, match="max_restarts=1"):
        poll(judge, Group(0), {0: OSError()})


def test_the_job_s_own_errors_end_the_run_at_once():
    judge, _ = judge_of()
    with pytest.raises(DataInvalid, match="row 3"):
        poll(judge, Group(5), {0: OSError(), 1: DataInvalid("row 3")})
    with pytest.raises(JobFailed, match="Worker 1 cannot import"):
        poll(judge, Group(5), {1: ImportError("no module")})
