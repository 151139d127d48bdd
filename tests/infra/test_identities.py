"""The rights that Terraform gives the pods are enough for what they do, and for nothing beside it."""

import json
import os
import subprocess
import sys

import pytest

from service.errors import StorageError
from service.storage import retries
from service.storage.store import Store
from tests.buckets import gs_options
from tests.infra.conftest import ROOT
from tests.infra.guard import ROLES, Guard, granted


@pytest.fixture
def guard(gcs_address):
    guard = Guard(gcs_address)
    yield guard
    guard.stop()


def store(guard, url):
    return Store(url, retry=retries.Policy(deadline_seconds=0), **gs_options(guard.address))


def test_a_trainer_keeps_a_run_under_runs(guard):
    guard.roles = granted("trainer")
    run = store(guard, "gs://bucket/runs/a")
    run.check()
    run.write("history.csv", b"epoch\n")
    run.write("history.csv", b"epoch\n1\n")
    assert run.read("history.csv") == b"epoch\n1\n" and run.read_range("history.csv", 0, 5) == b"epoch"
    assert run.list() == ["history.csv"] and not run.exists("model.keras")
    run.delete("history.csv")
    assert guard.denied == [] and len(guard.seen) > 10


@pytest.mark.parametrize("url", ["gs://bucket/a", "gs://bucket/runs-of-others/a", "gs://bucket"])
def test_a_trainer_reads_and_writes_nothing_else(guard, gcs_address, url):
    Store(url, **gs_options(gcs_address)).write("there", b"x")
    guard.roles = granted("trainer")
    elsewhere = store(guard, url)
    for call in (
        elsewhere.read,
        elsewhere.delete,
        lambda path: elsewhere.write(path, b"y"),
        lambda path: elsewhere.create("new", b"z"),
    ):
        with pytest.raises(StorageError):
            call("there")
    assert len(guard.denied) == len(guard.seen) == 4
    assert elsewhere.exists("there") and Store(url, **gs_options(gcs_address)).read("there") == b"x"


def test_a_file_that_is_missing_does_not_look_forbidden_to_those_who_may_list(guard):
    guard.roles = granted("trainer")
    with pytest.raises(FileNotFoundError):
        store(guard, "gs://bucket/runs/c").read("run.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROLES, granted("trainer")[1], set())
        with pytest.raises(StorageError):
            store(guard, "gs://bucket/runs/c").read("run.json")


def test_tensorboard_reads_and_cannot_write(guard):
    guard.roles = granted("trainer")
    run = store(guard, "gs://bucket/runs/b")
    run.write("logs/events", b"x")
    guard.roles = granted("tensorboard")
    assert run.list() == ["logs/events"] and run.read("logs/events") == b"x"
    assert guard.denied == []
    for change in (lambda: run.write("logs/events", b"y"), lambda: run.delete("logs/events"), lambda: run.create("new", b"z")):
        with pytest.raises(StorageError):
            change()


@pytest.mark.soak
@pytest.mark.processes
def test_a_whole_run_and_the_command_line_need_no_more(guard):
    guard.roles = granted("trainer")
    environment = {
        **os.environ,
        "STORAGE_EMULATOR_HOST": guard.address,
        "FSSPEC_GS": json.dumps({"token": "anon", "project": "project"}),
    }
    words = ["jobs.digits_vae", "--workers", "0", "--storage", "gs://bucket/runs", "--name", "vae-1", "--epochs"]
    for command in (
        [*words, "1"],
        [*words, "2"],
        ["service", "verify", "gs://bucket/runs/vae-1"],
        ["service", "runs", "gs://bucket/runs"],
    ):
        finished = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
    assert guard.denied == [] and len(guard.seen) > 50
