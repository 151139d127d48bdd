"""A run on Ray goes back where training diverges, and ends where one does that trains in one process."""

import pytest

from service.storage import detours
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests import divergences

pytestmark = [pytest.mark.soak, pytest.mark.ray, pytest.mark.timeout(600)]


def test_two_workers_go_back_at_the_same_step_and_it_counts_for_no_restart(tmp_path):
    history, said = divergences.driven(str(tmp_path), 2, max_restarts=0)
    assert said.count("Training diverged") == 2
    log = CommitLog(Store(str(tmp_path / "driven")))
    log.refresh()
    # The third batch of each epoch; its checkpoint before it is the second one's.
    assert [entry.body["skipped"] for entry in detours.diverged(log)] == [[[0, 2], [0, 2]], [[1, 2], [1, 2]]]
    alone, _ = divergences.driven(str(tmp_path / "alone"), 0)
    for name, values in alone.items():
        assert history[name] == pytest.approx(values, rel=1e-5), name
