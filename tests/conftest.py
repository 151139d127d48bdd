"""What the tests share: quiet, on CPUs, one thread an operation; and worker processes, one group a module."""

import os
from collections.abc import Iterator

import pytest

from tests.processes import Workers

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["KERAS_BACKEND"] = "tensorflow"
# A bucket server on loopback is no hierarchical bucket; asking would take a minute each.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


@pytest.fixture(scope="module")
def one() -> Iterator[Workers]:
    """A process that trains alone."""
    workers = Workers(1)
    yield workers
    workers.stop()


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    """Two processes that train together."""
    workers = Workers(2)
    yield workers
    workers.stop()
