"""What a run starts on one machine is reached from that machine alone."""

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Iterator

# On Linux, Ray takes an address that other machines reach for the node's, also where 127.0.0.1 is given, and its servers then
# listen on all addresses. Told not to span machines, it takes loopback, as on macOS (ray 2.60, _private/services.py:815).
_SPANS_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextlib.contextmanager
def around_ray() -> Iterator[None]:
    """Has the servers of a Ray cluster that is started in the block listen on loopback alone."""
    from ray._private import ray_constants

    named, spans = os.environ.get(_SPANS_MACHINES), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[_SPANS_MACHINES], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:  # this process may join a cluster of many machines next
        del os.environ[_SPANS_MACHINES]
        if named is not None:
            os.environ[_SPANS_MACHINES] = named
        ray_constants.ENABLE_RAY_CLUSTER = spans


def keep(port: int) -> None:
    """Closes a port of this process to other machines.

    For TensorFlow's server, which listens on all addresses whatever it is told (tensorflow 2.21, grpc_server_lib.cc) and
    asks nobody who he is: its socket is bound to the loopback device.
    """
    try:
        for server in _servers(port):
            with server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    except (OSError, AttributeError) as error:  # Linux before 5.7, or none
        print(
            f"Port {port} of TensorFlow is open to other machines, for it could not be bound to loopback ({error}). Who "
            "reaches it can run TensorFlow's operations here: close it by a firewall.",
            file=sys.stderr,
        )


def _servers(port: int) -> Iterator[socket.socket]:
    """Yields a copy of each socket of this process that listens on the port."""
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(FileNotFoundError):  # closed since
            if not stat.S_ISSOCK(os.stat(f"/proc/self/fd/{number}").st_mode):
                continue
            one = socket.socket(fileno=os.dup(number))
            is_server = one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockopt(
                socket.SOL_SOCKET, socket.SO_ACCEPTCONN
            )
            if is_server and one.getsockname()[1] == port:
                yield one
            else:
                one.close()
