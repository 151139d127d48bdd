"""What the workers tell each other of a save that failed."""

import pytest

from service.errors import Corrupt, ServiceError, StorageAway, StorageError, Superseded, WorkersDiffer
from service.training import committing


@pytest.mark.parametrize("kind", [StorageAway, StorageError, Superseded, Corrupt, WorkersDiffer])
def test_an_error_that_is_told_is_the_same_on_the_other_workers(kind):
    error = committing._error(*committing._told(kind("what happened")))
    assert type(error) is kind and str(error) == "what happened"


def test_an_error_that_nobody_raised_on_purpose_ends_the_run_with_its_traceback():
    try:
        {}["missing"]
    except KeyError as raised:
        error = committing._error(*committing._told(raised))
    assert type(error) is ServiceError and '{}["missing"]' in str(error)
    assert not committing._is_of_the_storage(error)


def test_of_several_workers_errors_one_that_ends_the_run_counts_and_else_all_are_named():
    failed = {1: ["StorageError", "no room"], 2: ["StorageAway", "no answer"]}
    assert committing._of_workers(failed) == ["StorageError", "Workers 1, 2: no room"]
    assert committing._of_workers({**failed, 3: ["Superseded", "another one has it"]}) == ["Superseded", "another one has it"]
