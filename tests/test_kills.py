"""A real run's driver killed with SIGKILL, without its workers, and the same command again; soak has more."""

import contextlib
import hashlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from service import cli_verify
from service.cluster import knock
from service.storage import layout, restore
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests.listening import listeners

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

HERE = Path(__file__).parents[1]
# 1123 rows, of which 898 are trained on: 15 steps an epoch, and a checkpoint at each third and at each epoch's end.
WORDS = ["--workers", "2", "--epochs", "6", "--save-every-steps", "3", "--seed", "5"]
# How long a test waits for what a command does next, before it is called hanging.
PATIENCE_SECONDS = 300


def started_at(pid: int) -> tuple[int, str] | None:
    """Returns a process's parent and the moment it started at; None where it is gone or a zombie."""
    try:
        state, parent, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else (int(parent), rest[17])


def descendants(pid: int) -> dict[int, str]:
    """Returns the processes that a process started, directly or not, with the moments they started at."""
    found = {int(name): started_at(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    family: dict[int, str] = {}
    new = {pid}
    while new := {child for child, about in found.items() if about and about[0] in new and child not in family}:
        family |= {child: found[child][1] for child in new}
    return family


def kill(family: dict[int, str]) -> None:
    """Kills those processes that are still the ones they were; a number may be given out again."""
    for pid, moment in family.items():
        about = started_at(pid)
        if about is not None and about[1] == moment:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], driver: "Driver") -> None:
    """Looks again and again until the condition holds; a driver that ended before is a failure."""
    began = time.monotonic()
    while not condition():
        assert driver.is_alive(), driver.printed()
        assert time.monotonic() - began < PATIENCE_SECONDS, driver.printed()
        time.sleep(0.002)


class Driver:
    """A job's command in a process of its own, and all the processes that it starts."""

    def __init__(self, module: str, *words: str) -> None:
        mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        mine["RAY_ADDRESS"] = "local"  # else it would join what another one started on this machine
        self._output = os.memfd_create("output")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *WORDS, *words], cwd=HERE, env=mine, stdout=self._output, stderr=subprocess.STDOUT
        )
        self._family: dict[int, str] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def printed(self) -> str:
        return os.pread(self._output, 2**20, 0).decode()

    def wait(self) -> int:
        """Returns the exit code, once it has ended."""
        return self._process.wait(PATIENCE_SECONDS)

    def family(self) -> dict[int, str]:
        """Returns the processes below the driver as they are now, and remembers them."""
        now = descendants(self.pid)
        self._family |= now
        return now

    def kill(self, with_all: bool) -> None:
        """Kills the driver, and with it at once, or not, all that it started."""
        family = self.family()
        self._process.kill()
        if with_all:
            kill(family)
        assert self._process.wait(10) == -signal.SIGKILL

    def end(self) -> None:
        """Leaves nothing behind."""
        if self.is_alive():
            self.family()
            self._process.kill()
            self._process.wait(10)
        kill(self._family)
        os.close(self._output)


@contextlib.contextmanager
def drivers() -> Iterator[Callable[..., Driver]]:
    """Starts drivers, of which none outlives the block."""
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> Driver:
            driver = Driver(*words)
            stack.callback(driver.end)
            return driver

        yield start


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[str, dict[str, Any]]:
    """What the run leaves that nobody disturbs."""
    storage = tmp_path_factory.mktemp("whole")
    with drivers() as start:
        driver = start("jobs.digits_classifier", "--storage", str(storage), "--name", "whole")
        assert driver.wait() == 0, driver.printed()
    return left(storage / "whole")


def newest(folder: Path) -> int:
    """Returns the number of the newest entry in the run's commit log, 0 before there is one."""
    try:
        return max((layout.number_of(f"{layout.COMMITS}/{name}") or 0 for name in os.listdir(folder / "commits")), default=0)
    except FileNotFoundError:
        return 0


def log_of(folder: Path) -> CommitLog:
    log = CommitLog(Store(str(folder)))
    log.refresh()
    assert log.damaged == {}
    return log


def left(folder: Path) -> tuple[str, dict[str, Any]]:
    """Returns the SHA-256 over all tensors that the run's stage left, by name, and its recorded result.

    Every byte of the run is verified first.
    """
    problems = [problem for check in cli_verify.checks(Store(str(folder))) for problem in check["problems"]]
    assert problems == []
    log = log_of(folder)
    found = restore.newest(log, stage=1, final=True)
    digest = hashlib.sha256()
    for name, tensor in sorted(found.tensors.items()):
        digest.update(repr((name, tensor.dtype.str, tensor.shape)).encode() + tensor.tobytes())
    ends = [entry.body for entry in log.entries() if entry.kind == "finished"]
    assert len(ends) == 1
    return digest.hexdigest(), {"history": ends[0]["history"], "metrics": ends[0]["metrics"]}


def attempts(folder: Path) -> int:
    return [entry.kind for entry in log_of(folder).entries()].count("opened")


def at_a_moment_of(attempt: int, folder: Path, driver: Driver, generator: np.random.Generator, most: int = 16) -> None:
    """Returns at a random moment of an attempt, counted from 1: less than `most` entries on from now, and between two."""
    # Asked again only where there is a new entry, for that reads the log.
    numbers = [0]

    def has_opened() -> bool:
        if (number := newest(folder)) > numbers[-1]:
            numbers.append(number)
            return attempts(folder) >= attempt
        return False

    wait_for(has_opened, driver)
    number = numbers[-1] + int(generator.integers(0, most))
    wait_for(lambda: newest(folder) >= number, driver)
    time.sleep(generator.uniform(0.0, 0.1))
    assert driver.is_alive(), driver.printed()


class Told(NamedTuple):
    """What happened to the run "killed": a second driver came while the first was alive, which then was killed.

    Attributes:
        folder: the run's.
        owner: the first driver's process.
        refused: the exit code and the words of the driver that came second.
        attempts: how many there were after that.
        last: what the driver printed that ended the run.
        doors: what the first driver and all that it started listened on while it trained, by the process's words, and from
            which of this machine's addresses that could be reached.
        strangers: how the first one's cluster answered without a token, and with a wrong one, at each door of a cluster.
    """

    folder: Path
    owner: int
    refused: tuple[int, str]
    attempts: int
    last: str
    doors: dict[tuple[str, int], list[str]]
    strangers: dict[str, list[str]]


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Iterator[Told]:
    """One command, given again and again."""
    storage, generator = tmp_path_factory.mktemp("killed"), np.random.default_rng(1)
    folder, notes = storage / "killed", storage / "notes"
    notes.mkdir()
    os.mkfifo(notes / "gate")
    command = ("tests.kill_jobs", "--storage", str(storage), "--name", "killed", "--notes", str(notes))
    with drivers() as start:
        first = start(*command)
        wait_for((folder / layout.LEASE).exists, first)
        second = start(*command)
        refused = second.wait(), second.printed()
        wait_for((notes / "at-gate").exists, first)
        after_refusal = attempts(folder)
        there = listeners({first.pid, *first.family()})
        doors = {(one.command, one.port): reached(one.port) for one in there}
        strangers = {
            door: [knock.ask(scheme + f"127.0.0.1:{one.port}", token) for token in (None, secrets.token_hex(32))]
            for door, scheme in (("gcs_server", ""), ("dashboard.py", "http://"))
            for one in there
            if door in one.command and (door != "dashboard.py" or is_jobs(one.port))
        }

        (notes / "gate").write_text("")  # which lets the first go on
        (notes / "gate").unlink()
        at_a_moment_of(1, folder, first, generator)
        first.kill(with_all=False)  # its workers go on until Ray has noticed, which takes seconds

        last = start(*command)
        assert last.wait() == 0, last.printed()
        yield Told(folder, first.pid, refused, after_refusal, last.printed(), doors, strangers)


def reached(port: int) -> list[str]:
    """Returns which of this machine's addresses a port answers at: loopback, and the one that other machines see."""
    found = []
    for address in ("127.0.0.1", seen_from_outside()):
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=10):
            found.append(address)
    return found


def seen_from_outside() -> str:
    """Returns the address from which this machine would write to others; loopback where it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, contextlib.suppress(OSError):
        one.connect(("192.0.2.1", 9))  # of nobody (RFC 5737), and nothing is sent
        return str(one.getsockname()[0])
    return "127.0.0.1"


def is_jobs(port: int) -> bool:
    """Whether a port is the dashboard's, not that of its metrics, which answer on any page."""
    return knock.ask(f"http://127.0.0.1:{port}/nothing", None) != "lets in"


def test_what_a_local_run_listens_on_is_heard_on_this_machine_alone(told):
    if seen_from_outside() == "127.0.0.1":
        pytest.skip("This machine has no address but loopback.")
    assert {door: addresses for door, addresses in told.doors.items() if addresses != ["127.0.0.1"]} == {}
    commands = [command for command, _ in told.doors]
    assert all(any(name in command for command in commands) for name in ("gcs_server", "raylet/raylet", "dashboard.py"))
    # Each worker has Ray's door and TensorFlow's.
    assert sum("RayTrainWorker" in command for command in commands) == 4


def test_a_local_run_s_cluster_refuses_who_has_no_token_and_who_has_a_wrong_one(told):
    assert told.strangers == {"gcs_server": ["refuses", "refuses"], "dashboard.py": ["refuses", "refuses"]}


def test_a_second_driver_is_refused_and_told_who_has_the_run(told):
    code, words = told.refused
    assert code == 1
    who = rf"The run {re.escape(str(told.folder))} is being trained by host \S+, pid {told.owner}, since \S+\. Stop that one"
    assert re.search(who, words), words
    assert told.attempts == 1


def test_a_driver_that_comes_after_a_killed_one_takes_over_where_it_was(told):
    log = log_of(told.folder).entries()
    opened = [entry.attempt for entry in log if entry.kind == "opened"]
    # Where the workers that outlived their driver had the time for all that was left, theirs is the last attempt.
    assert len(opened) == 2 or (len(opened) == 1 and log[-1].attempt == opened[0])
    # The first was killed in epoch 3 or later, so nobody after it trained epochs 1 and 2.
    assert re.search(r"^epoch [12]/", told.last, re.MULTILINE) is None


@pytest.mark.soak
def test_a_run_with_a_killed_driver_ends_with_the_bits_of_an_undisturbed_one(told, whole):
    assert left(told.folder) == whole
