"""Jobs submitted to a real Ray head with token authentication, as a cluster's users do it."""

import json
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service import cli_verify
from service.storage import layout
from service.storage.commits import CommitLog
from service.storage.entries import Entry
from service.storage.store import Store
from tests import ray_heads
from tests.ray_heads import PATIENCE_SECONDS, RAY, Head

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

HERE = Path(__file__).parents[1]
LEFT_OUT = (".venv", "runs", ".git")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head of two CPUs."""
    with ray_heads.started() as head:
        yield head


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout as a user has it, with much beside the code that no cluster needs."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("service", "jobs"):
        shutil.copytree(HERE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    for name in (".gitignore", "tests/__init__.py", "tests/kill_jobs.py"):
        shutil.copy(HERE / name, folder / name)
    for name in LEFT_OUT:
        (folder / name).mkdir()
        (folder / name / "large").write_bytes(bytes(2**20))
    return folder


def submit(head: Head, checkout: Path, job: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Runs `ray job submit` with a checkout, under a name for the job server."""
    words = ["--address", head.address, "--working-dir", str(checkout), "--submission-id", job, *options]
    return head.ray("job", "submit", *words, "--", "python", "-m", *command)


def entries(folder: Path) -> list[Entry]:
    log = CommitLog(Store(str(folder)))
    log.refresh()
    assert log.damaged == {}
    return log.entries()


def problems(folder: Path) -> list[str]:
    """Returns what is wrong with any byte of the run."""
    return [problem for check in cli_verify.checks(Store(str(folder))) for problem in check["problems"]]


def test_without_its_token_the_job_server_answers_nobody(head):
    assert head.ask("/api/jobs/", None)[0] == 401
    assert head.ask("/api/jobs/", secrets.token_hex(32))[0] == 403
    assert head.ask("/api/jobs/", head.token)[0] == 200
    without = {name: value for name, value in head.environment.items() if not name.startswith("RAY_AUTH")}
    without["HOME"] = str(head.folder)  # where no token of another cluster lies
    listed = subprocess.run([RAY, "job", "list", "--address", head.address], capture_output=True, text=True, env=without)
    assert listed.returncode != 0


def test_the_head_is_found_by_nobody_who_does_not_name_it(head):
    # `ray start` leaves its address for every later ray.init(); with a folder of its own it does so there.
    named = (head.folder / "ray" / "ray_current_cluster").read_text()
    usual = Path("/tmp/ray/ray_current_cluster")
    assert not usual.exists() or usual.read_text() != named


@pytest.fixture(scope="module")
def followed(head, checkout, tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """What the command printed that submitted two epochs of the autoencoder and followed them, and the run's folder."""
    storage = tmp_path_factory.mktemp("storage")
    words = ("--workers", "2", "--storage", str(storage), "--name", "vae-1", "--epochs", "2")
    return submit(head, checkout, "vae-1", "jobs.digits_vae", *words), storage / "vae-1"


def test_a_submitted_job_is_followed_to_its_end_and_leaves_a_finished_run(head, followed):
    done, folder = followed
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^epoch (\d/2)  [\d.]+ s  loss [\d.]+  val_loss [\d.]+$", done.stdout, re.MULTILINE) == ["1/2", "2/2"]
    summary = rf"^loss [\d.]+  val_loss [\d.]+\n{re.escape(str(folder))}\ntensorboard --logdir "
    assert re.search(summary, done.stdout, re.MULTILINE), done.stdout
    assert (head.about("vae-1")["status"], head.about("vae-1")["driver_exit_code"]) == ("SUCCEEDED", 0)
    log = entries(folder)
    assert (log[0].kind, log[0].body, log[-1].kind) == ("opened", {"workers": 2}, "finished")
    assert problems(folder) == []


def test_the_package_of_a_checkout_holds_its_code_and_leaves_out_what_is_large(head, followed):
    resources = head.folder / "ray" / "session_latest" / "runtime_resources" / "working_dir_files"
    packages = [{path.name for path in folder.iterdir()} for folder in resources.glob("_ray_pkg_*/")]
    assert packages and all(names == {"service", "jobs", "tests", ".gitignore"} for names in packages)


@pytest.mark.soak
def test_a_job_that_fails_ends_the_command_with_an_error_and_its_reason(head, checkout, tmp_path):
    words = ("--workers", "2", "--storage", str(tmp_path), "--epoch", "2")
    done = submit(head, checkout, "wrong", "jobs.digits_vae", *words)
    assert done.returncode != 0
    assert 'there is no option "--epoch". Did you mean "--epochs"?' in done.stdout
    assert (head.about("wrong")["status"], head.about("wrong")["driver_exit_code"]) == ("FAILED", 2)
    assert [*tmp_path.iterdir()] == []


def test_a_stopped_job_commits_where_it_is(head, checkout, tmp_path):
    """`ray job stop` sends SIGTERM to the command, and SIGKILL to what is left 3 s later.

    The commit needs a step and a save, and the command then some seconds to let go of its lease and of
    Ray; RAY_JOB_STOP_WAIT_TIME_S gives them, in the head's environment or in one job's runtime
    environment, as here.
    """
    folder, notes = tmp_path / "stopped", tmp_path / "notes"
    notes.mkdir()
    command = ("tests.kill_jobs", "--workers", "1", "--storage", str(tmp_path), "--name", "stopped", "--notes", str(notes))
    command += ("--patience", "5000")  # however long the stop takes to come, nothing else ends the training before
    patient = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(PATIENCE_SECONDS)}})
    options = ("--no-wait", "--runtime-env-json", patient)
    begun = submit(head, checkout, "stopped-1", *command, "--epochs", "5000", options=options)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    wait_until(lambda: (folder / "history.json").exists(), head, "stopped-1")

    stopped = head.ray("job", "stop", "--address", head.address, "stopped-1")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert head.about("stopped-1")["status"] == "STOPPED"
    logs = head.ray("job", "logs", "--address", head.address, "stopped-1").stdout
    said = re.search(
        r"stopped was asked to stop\. It is committed at epoch (\d+), step (\d+); the same command continues", logs
    )
    assert said, logs
    assert not (folder / layout.LEASE).exists()
    last = [entry for entry in entries(folder) if entry.kind == "checkpoint"][-1]
    epoch, step = map(int, said.groups())
    assert (last.body["epoch"], last.body["step"]) == (epoch - 1, step)
    assert problems(folder) == []


def wait_until(condition: Any, head: Head, job: str) -> None:
    """Looks again and again until the condition holds; a job that ended before is a failure."""
    began = time.monotonic()
    while not condition():
        about = head.about(job)
        assert about["status"] in ("PENDING", "RUNNING"), about
        assert time.monotonic() - began < PATIENCE_SECONDS, about
        time.sleep(0.1)
