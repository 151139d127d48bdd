"""Which TCP ports processes listen on, read from Linux's /proc."""

import contextlib
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_LISTENS = "0A"


class Listener(NamedTuple):
    """One listening socket: the address it is bound to, its port, and the process that has it."""

    address: str
    port: int
    pid: int

    @property
    def command(self) -> str:
        """The process's words, a space between two."""
        return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()

    @property
    def is_loopback(self) -> bool:
        """Whether its address is one that only this machine reaches."""
        return ipaddress.ip_address(self.address).is_loopback


def listeners(pids: Iterable[int]) -> list[Listener]:
    """Returns what these processes listen on, a socket that several share as the first one's."""
    owners: dict[str, int] = {}
    for pid in sorted(pids):
        with contextlib.suppress(OSError):  # it ended
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    owners.setdefault(os.readlink(f"/proc/{pid}/fd/{number}"), pid)
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            pid = owners.get(f"socket:[{columns[9]}]")
            if columns[3] == _LISTENS and pid is not None:
                address, _, port = columns[1].partition(":")
                found.append(Listener(_address(address), int(port, 16), pid))
    return sorted(found)


def _address(digits: str) -> str:
    """Returns an address whose 32-bit words stand in the machine's order, little-endian, as hexadecimal digits."""
    words = [bytes.fromhex(digits[i : i + 8])[::-1] for i in range(0, len(digits), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return str(getattr(found, "ipv4_mapped", None) or found)
