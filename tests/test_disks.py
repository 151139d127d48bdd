"""Whole runs on a real disk that fills up, or becomes read-only, half-way: a small one that only this test sees."""

import os
import pathlib
import pickle
import subprocess
import sys

import pytest
from tensorflow.python.summary.summary_iterator import summary_iterator

from service.storage.store import Store
from tests.disks import FREE_FROM
from tests.outages import STEPS, alarms, same, steps_of

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with copies of the runs, and what each attempt left by its name."""
    alone = ["unshare", "--mount"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("mounting a disk of one's own needs root's rights")
    folder = tmp_path_factory.mktemp("disks")
    words = [*alone, sys.executable, "-m", "tests.disks", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, cwd=pathlib.Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    with open(folder / "left", "rb") as file:
        return folder, pickle.load(file)


@pytest.mark.parametrize(("name", "error"), [("full", "No space left on device"), ("read-only", "Read-only file system")])
def test_a_disk_that_fails_for_a_while_costs_the_checkpoints_between(runs, name, error):
    folder, left = runs
    mine = left[f"{name} for a while"]
    assert mine["error"] == ""
    same(mine, left["whole"])
    first, last = alarms(mine["printed"])
    assert error in first and last.startswith("Saving works again: step ")
    saved = steps_of(Store(str(folder / f"{name} for a while")))
    # Each second step is saved; the disk fails from the 9th on until the 15th, when the save of the 14th may still be tried.
    assert saved[:4] == [2, 4, 6, 8] and not {10, 12} & set(saved)
    assert any(FREE_FROM <= step < STEPS for step in saved) and saved[-1] == STEPS


@pytest.mark.parametrize("name", ["full for a while", "read-only for a while"])
def test_what_a_disk_that_failed_for_a_while_holds_is_whole(runs, name):
    folder, _ = runs
    # Not an event is missing or torn either: the files are those of a run that nothing disturbed.
    assert event_tags(folder / name) == event_tags(folder / "whole")
    for view in ("history.json", "history.csv"):
        assert (folder / name / view).read_bytes() == (folder / "whole" / view).read_bytes()
    assert [file for file in os.listdir(folder / name) if file.startswith(".samestep-")] == []


def event_tags(run):
    """Returns the step and tag of every event, but of the speeds, of a run's folder."""
    found = []
    for path in sorted(run.rglob("events.out.tfevents.*")):
        for event in summary_iterator(str(path)):
            found += [(path.parent.name, event.step, value.tag) for value in event.summary.value]
    return sorted(found)


def test_a_disk_that_stays_full_lets_training_end_with_an_error_that_names_what_is_lost(runs):
    folder, left = runs
    full = left["full"]
    same(full, left["whole"])
    assert "StorageError: The storage failed, so the steps after 8 of 30 are not saved: " in full["error"]
    assert "No space left on device" in full["error"]
    assert "Not written either: history.csv, history.json, logs/train/events.out.tfevents." in full["error"]
    assert "is 8. Once the storage is mended, the same command goes on from there." in full["error"]
    assert len(alarms(full["printed"])) == 1
    assert steps_of(Store(str(folder / "full"))) == [2, 4, 6, 8]


def test_the_same_command_goes_on_once_there_is_room(runs):
    folder, left = runs
    mended = left["full, then mended"]
    assert mended["error"] == "" and alarms(mended["printed"]) == []
    same(mended, left["whole"])
    assert steps_of(Store(str(folder / "full, then mended")))[:5] == [2, 4, 6, 8, 10]
