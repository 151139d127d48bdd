"""Worker processes that all tests of jobs share."""

from collections.abc import Iterator

import pytest

from tests.processes import Workers


@pytest.fixture(scope="package")
def one() -> Iterator[Workers]:
    """A process that trains alone."""
    workers = Workers(1)
    yield workers
    workers.stop()


@pytest.fixture(scope="package")
def two() -> Iterator[Workers]:
    """Two processes that train together."""
    workers = Workers(2)
    yield workers
    workers.stop()
