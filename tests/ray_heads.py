"""Real Ray heads with a token, and nodes that join them, as a cluster's operator starts them."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.processes import free_ports
from tests.test_kills import descendants, kill

RAY = str(Path(sys.executable).with_name("ray"))
PATIENCE_SECONDS = 300


class Head(NamedTuple):
    """A running head.

    Attributes:
        address: where its job server listens.
        port: where it listens for nodes and drivers.
        token: what it asks for.
        environment: its users'.
        folder: its own.
        process: its first process.
    """

    address: str
    port: int
    token: str
    environment: dict[str, str]
    folder: Path
    process: subprocess.Popen

    def ask(self, path: str, token: str | None, body: Any = None) -> tuple[int, str]:
        """Returns the status and the text that the job server answers; with a body, to a POST of it as JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"} if data else {})
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def about(self, job: str) -> dict[str, Any]:
        """Returns what the job server says of a job."""
        status, text = self.ask(f"/api/jobs/{job}", self.token)
        assert status == 200, text
        return json.loads(text)

    def ray(self, *words: str) -> subprocess.CompletedProcess:
        """Runs Ray's command line as a user who has the token."""
        return subprocess.run([RAY, *words], capture_output=True, text=True, env=self.environment, cwd=self.folder, timeout=300)


@contextlib.contextmanager
def started(*words: str, cpus: int = 2, **more: str) -> Iterator[Head]:
    """Starts a head in a folder of its own: also the file by which a bare ray.init() would find it.

    Args:
        words: further words for `ray start`.
        cpus: how many CPUs it offers.
        more: environment variables of the head and its users.
    """
    folder = Path(tempfile.mkdtemp(prefix="head-", dir="/tmp"))  # Ray's sockets need a short path
    token = secrets.token_hex(32)
    (folder / "token").touch(0o600)
    (folder / "token").write_text(token)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # the jobs' `python` is this one
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",  # else SIGTERM takes half a minute, with no job left
        **more,
    }
    port, dashboard, agent, client = free_ports(4)
    command = ["--head", "--port", str(port), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
    command += ["--dashboard-agent-listen-port", str(agent), "--ray-client-server-port", str(client)]
    command += ["--num-cpus", str(cpus), "--temp-dir", str(folder / "ray"), *words]
    try:
        with _node(command, environment, folder) as process:
            head = Head(f"http://127.0.0.1:{dashboard}", port, token, environment, folder, process)
            _wait_until_up(head)
            yield head
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def joined(head: Head, address: str, *words: str, cpus: int = 1) -> Iterator[subprocess.Popen]:
    """Starts one more node of a head's cluster, as the head's address is known to it."""
    command = ["--address", address, "--dashboard-agent-listen-port", str(free_ports(1)[0]), "--num-cpus", str(cpus), *words]
    with _node(command, head.environment, head.folder) as process:
        yield process


@contextlib.contextmanager
def _node(words: list[str], environment: dict[str, str], folder: Path) -> Iterator[subprocess.Popen]:
    """Runs `ray start` until the block ends, and leaves nothing of it."""
    with open(folder / "output", "ab") as output:
        process = subprocess.Popen(
            [RAY, "start", *words, "--block"], env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
    family: dict[int, str] = {}
    try:
        yield process
    finally:
        family |= descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait(10)
        kill(family)


def _wait_until_up(head: Head) -> None:
    began = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            # The file is the last thing that it does.
            if head.ask("/api/jobs/", head.token)[0] == 200 and (head.folder / "ray" / "ray_current_cluster").exists():
                return
        log = head.folder / "ray" / "session_latest" / "logs" / "dashboard.log"
        if log.exists() and "http server disabled" in log.read_text():
            pytest.fail("The head starts no job server, for which Ray needs the packages of ray[default].")
        if head.process.poll() is not None or time.monotonic() - began > PATIENCE_SECONDS:
            pytest.fail(f"The head's job server is not up:\n{(head.folder / 'output').read_text()}")
        time.sleep(0.1)
