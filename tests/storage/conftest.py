"""Each kind of place to keep a run: a folder, memory, a GCS server and an S3 server on loopback."""

import uuid

import pytest

from service.storage.store import Store
from tests.buckets import gs_options, s3_options
from tests.storage.faults import PATIENT

KINDS = ("folder", "memory", "gs", "s3")


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
