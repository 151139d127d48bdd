"""Runs that somebody else has written are refused by name: nothing of them runs, and nothing is written outside."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.storage.hostile.table import HOSTILE

HERE = Path(__file__).parents[2]
# What reading one hostile run may take of Python's memory, and all of them of the machine's. No file
# of theirs has above 1 MiB that lies on a disk; several say that they have 2**40 bytes or more.
PYTHON_BYTES = 16 * 2**20
ALL_BYTES = 256 * 2**20


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What reading each hostile run gave, and what the process did meanwhile."""
    began, folder = time.perf_counter(), tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-m", "tests.storage.hostile.reader", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=HERE)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "pwned" not in done.stdout
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": time.perf_counter() - began}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_name_and_nothing_of_it_runs(name, answers):
    hostile, answer = HOSTILE[name], answers["results"][name]
    assert answer["crash"] == ""
    assert hostile.told in answer["told"]
    # What is restored is the newest checkpoint that nobody touched, bit by bit, or nothing.
    assert answer["restored"] == answers["saved"].get(str(hostile.step), {})
    assert answer["seen"] == []
    assert answer["outside"] and answer["left"] == []
    assert answer["peak"] <= PYTHON_BYTES


def test_at_least_sixty_hostile_files_are_refused_in_little_memory(answers):
    assert len(HOSTILE) == len(answers["results"]) >= 60
    assert answers["grown"] <= ALL_BYTES
    peak = max(answer["peak"] for answer in answers["results"].values())
    print(
        f"{len(HOSTILE)} hostile commits, shards, records and models: {len(HOSTILE)} refused by name, 0 ran, 0 wrote outside, "
        f"at most {peak / 2**20:.1f} MiB for one and {answers['grown'] / 2**20:.0f} MiB for all, {answers['seconds']:.0f} s"
    )
