"""A job finds its own package, packages, environment and secrets on every worker, here and submitted; for a RayJob see k8s."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ray_heads, told_jobs

pytestmark = [pytest.mark.ray, pytest.mark.soak, pytest.mark.timeout(300)]

HERE = Path(__file__).parents[1]


def test_a_local_run_s_workers_have_what_the_command_has(tmp_path):
    mine = {"SAMESTEP_MODE": "a=b", "HF_TOKEN": secrets.token_hex(32)}
    words = ["--workers", "2", "--storage", str(tmp_path), "--name", "told", "--notes", str(tmp_path)]
    command = [sys.executable, "-m", "tests.told_jobs", *words]
    done = subprocess.run(command, cwd=HERE, env={**os.environ, **mine}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert told_jobs.told(tmp_path) == dict.fromkeys((0, 1), told_jobs.given(mine))


def test_a_submitted_job_s_workers_have_what_it_was_submitted_with_and_the_cluster_s_secrets(tmp_path):
    mine = {"SAMESTEP_MODE": "a=b", "HF_TOKEN": secrets.token_hex(32)}
    with ray_heads.started(HF_TOKEN=mine["HF_TOKEN"]) as head:  # the cluster has the secret; who submits does not
        words = ["--workers", "2", "--storage", str(tmp_path), "--name", "told", "--notes", str(tmp_path)]
        runtime = json.dumps({"env_vars": {"SAMESTEP_MODE": mine["SAMESTEP_MODE"], "PYTHONPATH": str(HERE)}})
        options = ["--address", head.address, "--runtime-env-json", runtime]
        done = head.ray("job", "submit", *options, "--", "python", "-m", "tests.told_jobs", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert told_jobs.told(tmp_path) == dict.fromkeys((0, 1), told_jobs.given(mine))
