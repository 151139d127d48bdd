"""A worker that takes no more steps is found, its threads' stacks are kept, and the run goes on to the same end."""

import contextlib
import io
import time

import pytest
import ray

import service
from service.cluster import watch
from service.cluster.pulse import Pulse
from service.policies.stalling import Beat, StallPolicy
from tests import ray_jobs

pytestmark = [pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=3, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.parametrize(
    ("is_stopped", "stall_seconds", "problem"),
    [
        pytest.param(True, 600.0, "a step takes longer than 10 s", id="stopped from outside"),
        pytest.param(
            *(False, 12.0, "callbacks, data, saves) takes longer than 12 s"), id="a loop without an end", marks=pytest.mark.soak
        ),
    ],
)
def test_a_worker_that_is_stuck_starts_again_with_the_others(cluster, tmp_path, is_stopped, stall_seconds, problem):
    run = service.Run("stuck", str(tmp_path), workers=2, seed=5, stall_seconds=stall_seconds)
    printed, began = io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(printed):
        result = service.train(ray_jobs.stuck_once, run, notes=str(tmp_path), stopped=is_stopped)
    print(f"{time.monotonic() - began:.0f} s in all")
    assert (tmp_path / "stuck-was-stuck").exists()
    assert len(result.history["loss"]) == 4
    assert problem in printed.getvalue() and "all start again" in printed.getvalue()
    stacks = {path.name[-5]: path.read_text() for path in (tmp_path / "stuck" / "stacks").iterdir()}
    # A stopped process writes nothing; the others tell in which call they wait for it.
    assert set(stacks) == ({"0"} if is_stopped else {"0", "1"})
    assert all(problem in text for text in stacks.values())
    assert ("taking.py" in stacks["0"]) if is_stopped else ("loop_without_end" in stacks["1"]), "\n".join(stacks.values())


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self):
        return self.now


def test_a_watch_tells_where_it_is_and_what_is_wrong():
    clock, told = Clock(), []
    pulse = Pulse(clock)

    def tell(phase, seconds, problem):
        told.append((phase, seconds, problem))
        return [Beat("step", seconds)], ""

    step = pulse.stepping(lambda: looked.append(watched.look([Beat("step", 0.0)])))
    looked: list = []
    watched = watch.Watch(pulse, StallPolicy(600), tell, keep=told.append, end=lambda: None)

    def loop():
        step()  # the first one compiles
        step()
        clock.now += 601
        looked.append(watched.look([]))

    pulse.looping(loop)()
    clock.now += 601
    looked.append(watched.look([]))
    phases = ["compiling a step", "step", "what comes between steps (callbacks, data, saves)", "the job's own code"]
    assert [phase for phase, _, _ in told] == phases
    assert [problem for _, problem in looked] == ["", "", f"{phases[2]} takes longer than 600 s", ""]


def test_another_worker_s_problem_is_this_one_s_too():
    watched = watch.Watch(Pulse(Clock()), StallPolicy(600), lambda *beat: ([], "a step takes longer"), print, print)
    assert watched.look([]) == ([], "a step takes longer")


def test_the_stacks_show_every_thread():
    assert "test_the_stacks_show_every_thread" in watch.stacks()
