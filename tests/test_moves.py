"""An elastic run goes on whatever happens to its cluster, and loses no step where it was told before."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import ray

import service
from service import trainer
from service.cluster.metrics import GAUGES
from service.storage import restore
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests import paced_jobs
from tests.paced_jobs import Page, attempts
from tests.test_kills import descendants, kill

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

PATIENCE_SECONDS = 300  # as in test_kills
FIRST_PORT = 21000  # below those that the system gives out
DRAIN_SECONDS = 600  # the machine stays that long; the run is gone from it long before


class Story(NamedTuple):
    """What happened to a run.

    Attributes:
        result: what it returned.
        mishaps: in order; each ended one attempt.
        attempts: what the workers of each attempt wrote.
        metrics: the names, with the run's tag, that Prometheus was told.
        mapped: the files that the controller had in memory at the end.
    """

    result: service.Result
    mishaps: list[str]
    attempts: list[list[Page]]
    metrics: set[str]
    mapped: str

    def around(self, mishap: str) -> tuple[list[Page], list[Page]]:
        """Returns the attempts before and after a mishap."""
        before = self.mishaps.index(mishap)
        return self.attempts[before], self.attempts[before + 1]


def drive(address: str, run: service.Run, notes: Path) -> None:
    """Trains the run on a cluster, in a process of its own, and writes down what it prints and returns."""
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    trainer._RESIZE_SECONDS = 5.0
    with open(notes / "printed", "a", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        result = service.train(paced_jobs.train, run, notes=str(notes))
    (notes / "result").write_text(json.dumps(dataclasses.asdict(result)))


def controller(driver: int) -> int:
    """Returns the process of the run's controller, a child of a raylet that carries its name."""
    family = descendants(driver)
    (found,) = [pid for pid in family if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::TrainController")]
    return found


def drain(address: str, node_id: str) -> None:
    """Announces that a machine is taken away, as the end of a spot machine is."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + DRAIN_SECONDS) * 1000)
    accepted, why = GcsClient(address=address).drain_node(node_id, reason, "spot", deadline)
    assert accepted, why


def machine(cluster: Any, number: int) -> Any:
    """Adds a machine to a cluster, whose workers listen on ports of its own.

    All share an address here: gRPC may wait two minutes before it connects to a port where a machine listened that is gone.
    """
    ports = FIRST_PORT + 100 * number
    return cluster.add_node(num_cpus=1, min_worker_port=ports, max_worker_port=ports + 99)


def lose(node: Any) -> None:
    """Kills all processes of a machine at once."""
    raylet = node.all_processes["raylet"][0].process.pid
    family = descendants(raylet)
    os.kill(raylet, signal.SIGKILL)
    kill(family)


def metrics(run: str) -> set[str]:
    """Returns the names of a run's metrics, asked of each machine as Prometheus would."""
    found: set[str] = set()
    for node in filter(lambda node: node["Alive"], ray.nodes()):
        with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as answer:
            found |= set(re.findall(rf'^ray_(samestep_\w+)\{{.*run="{run}"', answer.read().decode(), re.MULTILINE))
    return found


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Iterator[Story]:
    from ray.cluster_utils import Cluster

    storage, notes = tmp_path_factory.mktemp("storage"), tmp_path_factory.mktemp("notes")
    # As k8s/ sets it: Ray itself takes up to 15 s to count a machine as gone that lost its power, and plans with it until then.
    hasty = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True, "_system_config": hasty})
    nodes = [machine(cluster, 0), machine(cluster, 1)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    mishaps: list[str] = []
    # One lost attempt without a new checkpoint is allowed; there are two in all, and what was announced counts for none.
    run = service.Run("moved", str(storage), workers=(1, 2), seed=5, max_restarts=1)
    driver = multiprocessing.get_context("spawn").Process(target=drive, args=(cluster.address, run, notes))

    def wait_for(condition: Callable[[], Any], what: str) -> None:
        began = time.monotonic()
        while not condition():
            printed = (notes / "printed").read_text() if (notes / "printed").exists() else ""
            assert driver.is_alive(), f"{what}: the run ended\n{printed}"
            assert time.monotonic() - began < PATIENCE_SECONDS, f"{what}\n{printed}\n{attempts(notes)}\n{ray.nodes()}"
            time.sleep(0.05)

    def has_begun(number: int) -> bool:
        found = attempts(notes)
        return len(found) > number and all(len(page.steps) > 5 for page in found[number])

    def befall(mishap: str, act: Callable[[], Any]) -> None:
        began = time.monotonic()
        mishaps.append(mishap)
        act()
        wait_for(lambda: has_begun(len(mishaps)), mishap)
        sys.stderr.write(f"{mishap}: six steps on after {time.monotonic() - began:.1f} s\n")

    driver.start()
    try:
        wait_for(lambda: has_begun(0), "the start")
        befall("worker 1 is sent SIGTERM", lambda: os.kill(attempts(notes)[0][1].process, signal.SIGTERM))
        befall("the controller is killed", lambda: os.kill(controller(os.getpid()), signal.SIGKILL))
        befall("a machine is taken away", lambda: drain(cluster.address, nodes[1].node_id))
        befall("the only worker is sent SIGTERM", lambda: os.kill(attempts(notes)[3][0].process, signal.SIGTERM))
        befall("a machine is added", lambda: nodes.append(machine(cluster, 2)))
        befall("a machine is lost", lambda: lose(nodes[2]))
        # What is told once a second is seen once in ten: an attempt that long is behind it.
        wait_for(lambda: "samestep_slowest_worker" in metrics(run.name), "metrics")
        seen = metrics(run.name)
        mapped = Path(f"/proc/{controller(os.getpid())}/maps").read_text()
        (notes / "last-step").write_text(str(attempts(notes)[-1][0].steps[-1] + 20))
        driver.join(PATIENCE_SECONDS)
        assert driver.exitcode == 0, (notes / "printed").read_text()
        yield Story(service.Result(**json.loads((notes / "result").read_text())), mishaps, attempts(notes), seen, mapped)
    finally:
        driver.kill()
        driver.join()
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.parametrize(
    "mishap",
    ["worker 1 is sent SIGTERM", "a machine is taken away", "the only worker is sent SIGTERM", "a machine is added"],
)
def test_what_is_announced_costs_no_step(story, mishap):
    before, after = story.around(mishap)
    last = {page.steps[-1] for page in before}
    assert len(last) == 1, "the workers left at one step"
    assert {page.steps[0] for page in after} == {last.pop() + 1}


@pytest.mark.parametrize("mishap", ["the controller is killed", "a machine is lost"])
def test_what_comes_without_a_word_costs_the_steps_since_the_last_checkpoint(story, mishap):
    before, after = story.around(mishap)
    # No epoch ended in between, so the newest checkpoint is the one that the attempt before began from.
    assert {page.steps[0] for page in after} == {page.steps[0] for page in before}


def test_the_run_has_as_many_workers_as_the_machines_that_stay_can_hold(story):
    log = CommitLog(Store(story.result.url))
    log.refresh()
    assert [entry.body["workers"] for entry in log.entries() if entry.kind == "opened"] == [2, 2, 2, 1, 1, 2, 1]


@pytest.fixture
def float_types() -> Iterator[None]:
    """Gives back the types that the process's other tests compute in."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


def test_ray_train_s_controller_which_hears_of_it_all_never_imports_tensorflow(story):
    assert "_raylet" in story.mapped and "tensorflow" not in story.mapped


def test_prometheus_sees_how_the_run_goes(story):
    assert story.metrics == set(GAUGES)


def test_its_end_is_that_of_one_process_that_nothing_happened_to(story, tmp_path, float_types):
    (tmp_path / "last-step").write_text(str(story.attempts[-1][0].steps[-1]))
    run = service.Run("alone", str(tmp_path), workers=0, seed=5)
    undisturbed = service.train(paced_jobs.train, run, notes=str(tmp_path), step_seconds=0.0)
    ones, others = left(story.result), left(undisturbed)
    assert ones.keys() == others.keys()
    for name, tensor in ones.items():
        largest = max(1.0, float(np.max(np.abs(others[name]), initial=0.0)))
        assert np.max(np.abs(tensor - others[name]), initial=0.0) <= 1e-9 * largest, name


def left(result: service.Result) -> dict[str, np.ndarray]:
    """Returns the numbers that the run's stage left."""
    log = CommitLog(Store(result.url))
    log.refresh()
    found = restore.newest(log, stage=1, final=True)
    return {name: tensor for name, tensor in found.tensors.items() if tensor.dtype == np.float64}
