"""Machines of their own, as network namespaces on one switch: each has its address, its ports and its names of others."""

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.test_kills import descendants, kill


class Machine:
    """One machine.

    Attributes:
        address: its own on the switch.
        name: of its network namespace.
    """

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        folder.mkdir()

    def start(self, command: str, env: Mapping[str, str], cwd: Path) -> "subprocess.Popen[bytes]":
        """Starts a shell's line on the machine; it prints into `output`."""
        words = ["ip", "netns", "exec", self.name, "bash", "-c", command]
        with open(self.output, "ab") as output:
            return subprocess.Popen(words, env=self._env(env), cwd=cwd, stdout=output, stderr=subprocess.STDOUT)

    def run(self, command: str) -> str:
        """Returns what a shell's line prints on the machine; nothing where it fails."""
        words = ["ip", "netns", "exec", self.name, "bash", "-c", command]
        return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout

    @property
    def output(self) -> Path:
        """Where what it runs prints."""
        return self.folder / "output"

    def _env(self, env: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        # Pods have a /tmp and a home of their own. Names are a hosts file's here, past which gRPC's own resolver looks.
        own = {"HOME": str(self.folder), "RAY_TMPDIR": str(self.folder), "GRPC_DNS_RESOLVER": "native"}
        return {**kept, **own, **env}


@contextlib.contextmanager
def switched(folder: Path, count: int, names: Mapping[str, int]) -> Iterator[list[Machine]]:
    """Makes machines on a switch that nobody else is on; skips the test where this machine does not allow it.

    Args:
        folder: theirs, with a short path, for Ray's sockets.
        count: how many.
        names: further names, and which machine each one is.
    """
    mark = f"ss{uuid.uuid4().hex[:6]}"
    made: list[str] = []
    addresses = [f"10.77.0.{i + 1}" for i in range(count)]
    hosts = "127.0.0.1 localhost\n" + "".join(f"{addresses[i]} {name}\n" for name, i in names.items())
    try:
        try:
            _ip("netns", "add", f"{mark}-switch")
            made.append(f"{mark}-switch")
            _ip("-n", made[0], "link", "add", "switch", "type", "bridge")
            _ip("-n", made[0], "link", "set", "switch", "up")
            for i, address in enumerate(addresses):
                name = f"{mark}-{i}"
                _ip("netns", "add", name)
                made.append(name)
                Path("/etc/netns", name).mkdir(parents=True)
                Path("/etc/netns", name, "hosts").write_text(hosts)
                _ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"port{i}", "netns", made[0])
                _ip("-n", made[0], "link", "set", f"port{i}", "master", "switch", "up")
                for words in (("link", "set", "lo", "up"), ("link", "set", "eth0", "up")):
                    _ip("-n", name, *words)
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
                _ip("-n", name, "route", "add", "default", "via", "10.77.0.254")  # Ray asks which address leads outside
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"this machine makes no network namespaces: {getattr(error, 'stderr', None) or error}")
        yield [
            Machine(name, address, folder / f"m{i}") for i, (name, address) in enumerate(zip(made[1:], addresses, strict=True))
        ]
    finally:
        for name in reversed(made):
            _ip("netns", "del", name)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)


def ended(process: "subprocess.Popen[Any]", seconds: float = 40) -> None:
    """Ends a machine's first process as kubelet does, by SIGTERM and, after its grace, for good; and all that it started."""
    family = descendants(process.pid)
    process.terminate()  # it alone: a shell's last command takes the shell's place, as the container's first process
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    process.wait(10)
    kill(family)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
