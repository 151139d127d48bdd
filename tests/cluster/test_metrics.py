"""The numbers that Prometheus sees: what they say, whose they are, and that documents name each of them."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.cluster import metrics
from service.cluster.metrics import Gauges
from service.training.recording import Pace

DOCUMENT = Path(__file__).parents[2] / "docs/metrics.md"


@pytest.fixture
def told(monkeypatch):
    """What gauges were set to, by name and tags."""
    values: dict[tuple[str, ...], float] = {}

    class Gauge:
        def __init__(self, name, description, tag_keys):
            self.name, self.tag_keys = name, tag_keys

        def set(self, value, tags):
            assert set(tags) == set(self.tag_keys)
            values[(self.name.removeprefix("samestep_"), *tags.values())] = value

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    monkeypatch.setattr("ray.wait", lambda refs, timeout: (refs, []))
    monkeypatch.setattr("ray.get", lambda ref: ref)
    return values


class Run:
    """Steps of 0.3 s on ten rows, of which 0.1 s are spent waiting for data and 0.2 s of work."""

    def __init__(self, worker: int = 0) -> None:
        self.seconds, self.step = 0.0, 0
        relay = SimpleNamespace(busiest=SimpleNamespace(remote=lambda group, worker, busy: 1))
        self.gauges = Gauges("vae-1", worker, relay, clock=lambda: self.seconds, busy=lambda: self.seconds * 2 / 3)

    def train(self, steps: int) -> None:
        """Trains an epoch."""
        pace = Pace()
        for _ in range(steps):
            self.seconds += 0.3
            self.step += 1
            pace.count(10)
            pace.waited_seconds += 0.1
            self.gauges.stepped(self.step, {"loss": 1.0 / self.step}, pace)


def test_a_step_is_told_once_a_second_with_the_pace_since_the_last_time(told):
    run = Run()
    run.train(9)  # told after 0.3, 1.5 and 2.7 s: steps 1, 5 and 9
    assert told["steps", "vae-1"] == 9
    assert told["loss", "vae-1"] == pytest.approx(1 / 9)
    assert told["step_seconds", "vae-1", "0"] == pytest.approx(0.3)
    assert told["data_wait_seconds", "vae-1", "0"] == pytest.approx(0.1)
    assert told["samples_per_second", "vae-1"] == pytest.approx(10 / 0.3)
    assert told["slowest_worker", "vae-1"] == 1


def test_epochs_of_less_than_a_second_count_together(told):
    run = Run()
    for _ in range(9):
        run.train(1)
    assert told["step_seconds", "vae-1", "0"] == pytest.approx(0.3)
    assert told["samples_per_second", "vae-1"] == pytest.approx(10 / 0.3)


def test_other_workers_tell_only_what_is_their_own(told):
    Run(worker=3).train(9)
    assert set(told) == {("step_seconds", "vae-1", "3"), ("data_wait_seconds", "vae-1", "3")}


def test_a_commit_is_told_with_its_cost(told):
    Run().gauges.committed(12, seconds=0.5, size=1000)
    assert (told["committed_step", "vae-1"], told["checkpoint_seconds", "vae-1"], told["checkpoint_bytes", "vae-1"]) == (
        12,
        0.5,
        1000,
    )
    assert told["commit_timestamp_seconds", "vae-1"] > 1.7e9


def test_the_document_has_each_name_and_its_tags():
    lines = re.findall(r"^\| `(\w+)` \| (\w*)", DOCUMENT.read_text(), re.MULTILINE)
    assert dict(lines) == {name: "worker" if name in metrics.PER_WORKER else "" for name in metrics.GAUGES}
