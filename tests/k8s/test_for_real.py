"""A run's RayJob as KubeRay starts it: its very commands, environment and probe, on machines of their own, by its token."""

import copy
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from service import cli_verify
from service.storage import restore
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests import told_jobs
from tests.k8s import kuberay, machines
from tests.k8s.conftest import ROOT
from tests.k8s.mutants import ray
from tests.paced_jobs import attempts

pytestmark = [pytest.mark.ray, pytest.mark.soak, pytest.mark.timeout(400)]

PATIENCE_SECONDS = 150


class Story(NamedTuple):
    """What happened to the run.

    Attributes:
        folder: its own.
        notes: what its workers wrote down.
        printed: what the submitter did.
        status: what the probe answered on head and worker, and the job server without a token.
        told: what the workers of another job on the same pods found.
        given: what they should have.
    """

    folder: Path
    notes: Path
    printed: str
    status: dict[str, str]
    told: dict[int, Any]
    given: dict[str, Any]


def wait_for(condition: Callable[[], Any], what: str, said: Callable[[], str]) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE_SECONDS, f"{what}\n{said()}"
        time.sleep(0.2)


@pytest.fixture
def story(ask, tmp_path):
    """The run, from its manifest to its end, with a machine taken away in between."""
    storage, notes, told = tmp_path / "storage", tmp_path / "notes", tmp_path / "told"
    notes.mkdir()
    told.mkdir()
    code, documents, complaint = ask(
        *("tests.paced_jobs", "--overlay", "local", "--name", "real", "--workers", "2", "--storage", str(storage)),
        *("--env", "TF_CPP_MIN_LOG_LEVEL=3", "--env", "SAMESTEP_MODE=a=b", "--secret-env", "HF_TOKEN=hugging-face:token"),
        *("--", "--notes", str(notes), "--seed", "5", "--save-every-epochs", "100"),
    )
    assert code == 0, complaint
    job = ray(documents)
    other = copy.deepcopy(job)
    words = ("--workers", "2", "--storage", str(storage), "--name", "told", "--notes", str(told))
    other["spec"]["entrypoint"] = shlex.join(["python", "-m", "tests.told_jobs", *words])
    known = {("samestep-ray-token", "auth_token"): secrets.token_hex(32), ("hugging-face", "token"): secrets.token_hex(32)}
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin"
    short = Path(tempfile.mkdtemp(prefix="m-", dir="/tmp"))
    running: list[Any] = []
    try:
        with machines.switched(short, 5, {kuberay.service_of(job): 0}) as (head, first, second, third, user):

            def start(machine: machines.Machine, container: kuberay.Container) -> Any:
                running.append(machine.start(container.command, {**container.env, "PATH": path}, ROOT))
                return running[-1]

            def said() -> str:
                return "\n".join(
                    f"{m.name}: {m.output.read_text()[-3000:]}" for m in (head, first, second, user) if m.output.exists()
                )

            def has_begun(number: int) -> bool:
                found = attempts(notes)
                return len(found) > number and len(found[number]) == 2 and all(len(page.steps) > 5 for page in found[number])

            start(head, kuberay.head(job, known))
            start(first, kuberay.worker(job, known))
            code_of = "curl -s -o /dev/null -w '%{http_code}' http://"
            probe = f"{code_of}localhost:{kuberay.HEALTH}/api/healthz"
            wait_for(lambda: head.run(probe) == first.run(probe) == "200", "the probes", said)
            status = {
                "head": head.run(probe),
                "worker": first.run(probe),
                "metrics": user.run(f"{code_of}{head.address}:8080/metrics"),
                "no token": user.run(f"{code_of}{head.address}:8265/api/jobs/"),
                "wrong token": user.run(f"{code_of}{head.address}:8265/api/jobs/ -H 'Authorization: Bearer {'0' * 64}'"),
            }
            submitter = start(user, kuberay.submitter(job, known, "real-1"))
            leaving = start(second, kuberay.worker(job, known))  # the run waits for the pod that is late
            wait_for(lambda: has_begun(0), "the first steps", said)
            machines.ended(leaving)  # a spot node's end, as kubelet tells the pod
            start(third, kuberay.worker(job, known))  # and the pod that KubeRay makes in its place
            wait_for(lambda: has_begun(1), "steps on the other machine", said)
            (notes / "last-step").write_text(str(max(attempts(notes)[1][0].steps) + 20))
            wait_for(lambda: submitter.poll() is not None, "the end", said)
            printed = user.output.read_text()
            again = start(user, kuberay.submitter(other, known, "told-1"))
            wait_for(lambda: again.poll() is not None, "the other job", said)
            mine = {"SAMESTEP_MODE": "a=b", "HF_TOKEN": known["hugging-face", "token"]}
            yield Story(storage / "real", notes, printed, status, told_jobs.told(told), told_jobs.given(mine))
            for process in reversed(running):
                machines.ended(process, seconds=5)
            running.clear()
    finally:
        for process in reversed(running):
            machines.ended(process, seconds=1)
        shutil.rmtree(short, ignore_errors=True)


def test_a_spot_node_leaves_and_the_run_ends_with_the_exact_result(story, tmp_path):
    assert story.status == {"head": "200", "worker": "200", "metrics": "200", "no token": "401", "wrong token": "403"}
    assert story.told == dict.fromkeys((0, 1), story.given)  # packages, --env and --secret-env
    first, second = attempts(story.notes)
    # Nothing was lost and nothing done twice: each worker goes on with the step behind the last one.
    for before, after in zip(first, second, strict=True):
        assert before.steps == [*range(1, len(before.steps) + 1)]
        assert after.steps == [*range(len(before.steps) + 1, after.steps[-1] + 1)]
    store = Store(str(story.folder))
    assert [problem for check in cli_verify.checks(store) for problem in check["problems"]] == []
    log = CommitLog(store)
    log.refresh()
    assert [entry.kind for entry in log.entries() if entry.kind in ("opened", "finished")] == ["opened", "opened", "finished"]
    assert "A machine of the run is about to be taken away" in story.printed
    # One process that nothing disturbs, to the same step.
    notes = tmp_path / "undisturbed"
    notes.mkdir()
    (notes / "last-step").write_text(str(second[0].steps[-1]))
    alone = f"{sys.executable} -m tests.paced_jobs --workers 0 --seed 5 --name alone --step-seconds 0"
    words = [*shlex.split(alone), "--storage", str(tmp_path), "--notes", str(notes)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    one, many = (left(Store(url)) for url in (str(tmp_path / "alone"), str(story.folder)))
    assert one.keys() == many.keys()
    for name, value in one.items():
        largest = max(1.0, float(np.max(np.abs(value), initial=0.0)))
        assert np.max(np.abs(many[name] - value), initial=0.0) <= 1e-9 * largest, name


def left(store: Store) -> dict[str, np.ndarray]:
    """Returns the numbers that the run's stage left."""
    log = CommitLog(store)
    log.refresh()
    found = restore.newest(log, stage=1, final=True)
    return {name: tensor for name, tensor in found.tensors.items() if tensor.dtype == np.float64}
