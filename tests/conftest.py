"""What the tests share: quiet, on CPUs, one thread an operation; and worker processes, one group of each kind."""

import os
from collections.abc import Iterator

import pytest

from tests.processes import Workers

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["KERAS_BACKEND"] = "tensorflow"
# A bucket server on loopback is no hierarchical bucket; asking would take a minute each.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

pytest_plugins = ["tests.buckets", "tests.kubectl"]


def _workers(count: int, floatx: str) -> Iterator[Workers]:
    workers = Workers(count, floatx)
    yield workers
    workers.stop()


@pytest.fixture(scope="session")
def one() -> Iterator[Workers]:
    """A process that trains alone."""
    yield from _workers(1, "float32")


@pytest.fixture(scope="session")
def two() -> Iterator[Workers]:
    """Two processes that train together."""
    yield from _workers(2, "float32")


@pytest.fixture(scope="session")
def one_double() -> Iterator[Workers]:
    """A process that trains alone, in float64."""
    yield from _workers(1, "float64")


@pytest.fixture(scope="session")
def two_double() -> Iterator[Workers]:
    """Two processes that train together, in float64."""
    yield from _workers(2, "float64")


@pytest.fixture(scope="session")
def three_double() -> Iterator[Workers]:
    """Three processes that train together, in float64."""
    yield from _workers(3, "float64")
