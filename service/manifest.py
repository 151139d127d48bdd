"""A run as a Kubernetes manifest: an overlay of k8s/ with its name, workers and command.

    python -m service manifest jobs.digits_vae --overlay gpu --workers 8 --name vae-1 | kubectl apply -f -

What is printed is complete: the namespace and its policies stand before the run, and
applying them again changes nothing. To apply the run alone: -l samestep/run=vae-1.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from service import secrecy
from service.errors import EnvironmentUnfit, RunInvalid, did_you_mean
from service.kubernetes import documents, rules, security
from service.kubernetes.documents import GPU, TPU, TPU_TOPOLOGY, Document
from service.run import Run

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Request:
    """What a run's manifest is asked for.

    Attributes:
        job: the job's module, such as jobs.digits_vae.
        overlay: one of the folders in k8s/runs.
        name: the run's name.
        workers: how many, as the job's command takes it.
        storage: where runs are kept; None takes the overlay's.
        options: the job command's further words.
        env: NAME=VALUE for head and workers.
        secret_env: NAME=secret:key, taken from a Secret of the namespace.
    """

    job: str
    overlay: str
    name: str
    workers: str = "1"
    storage: str | None = None
    options: Sequence[str] = ()
    env: Sequence[str] = ()
    secret_env: Sequence[str] = ()


def manifest(request: Request, seconds: float) -> str:
    """Returns the manifest as YAML, the run's RayJob in it.

    Args:
        request: what is asked for.
        seconds: since 1970, from which the RayJob gets a name of its own: Kubernetes takes a
            changed RayJob of the same name for the old one and does nothing.

    Raises:
        RunInvalid: a name, an option or the overlay cannot be carried out.
        EnvironmentUnfit: neither kubectl nor kustomize is here, or the job cannot be imported.
    """
    secrecy.check_url(request.storage or "")
    job_name, variables = _job_name(request.name, seconds), _variables(request)
    rendered = _rendered(request.overlay)
    job = next(document for document in rendered if document["kind"] == "RayJob")
    words = _words(request, job)
    run = _described(request, words)
    cluster = documents.ray_cluster(job) or {}
    job["metadata"]["name"] = job_name
    job["metadata"]["labels"]["samestep/run"] = request.name
    job["spec"]["entrypoint"] = shlex.join(["python", "-m", request.job, *words])
    _size(run, cluster["workerGroupSpecs"][0])
    for pod in documents.pods(job):
        pod.template["metadata"]["labels"]["samestep/run"] = request.name
        if pod.role != "submitter":
            _add(variables, pod)
    if found := [*rules.problems(rendered), *security.problems(rendered)]:
        raise RunInvalid(f"The overlay {request.overlay} would not run, or stand open:\n" + "\n".join(found))
    return yaml.safe_dump_all(rendered, sort_keys=False, width=1000)


def is_unset(text: str) -> bool:
    """Whether a manifest still holds the placeholders of k8s/settings.env."""
    return re.search(r"\b(registry|bucket|project)\.invalid\b", text) is not None


def _job_name(name: str, seconds: float) -> str:
    """Returns the run's name with a suffix that no earlier second gave."""
    suffix, rest = "", int(seconds)
    while rest:
        rest, digit = divmod(rest, len(_DIGITS))
        suffix = _DIGITS[digit] + suffix
    most = rules.MOST_CHARACTERS["RayJob"] - len(suffix) - 1
    if not rules.is_name(name, most):
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789")[:most].rstrip("-")
        raise RunInvalid(
            f"--name {name}: Kubernetes takes at most {most} small letters, digits and dashes, a letter first and no dash "
            f"last (a RayJob has {rules.MOST_CHARACTERS['RayJob']}, and each apply adds {len(suffix) + 1}). "
            f"Name the run, for example, {near or 'run-1'}."
        )
    return f"{name}-{suffix}"


def _rendered(overlay: str) -> list[Document]:
    places = (pathlib.Path("k8s"), pathlib.Path(__file__).parents[1] / "k8s")
    home = next((place / "runs" for place in places if (place / "runs").is_dir()), None)
    if home is None:
        raise RunInvalid(f"There is no k8s/runs here or at {places[1].parent}. Run this in a checkout of the project.")
    overlays = sorted(path.parent.name for path in home.glob("*/kustomization.yaml"))
    if overlay not in overlays:
        raise RunInvalid(f'There is no overlay "{overlay}" in {home}. {did_you_mean(overlay, overlays)}')
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    else:
        raise EnvironmentUnfit("Neither kubectl nor kustomize is on PATH. Install kubectl, which also applies the manifest.")
    done = subprocess.run([*command, str(home / overlay)], capture_output=True, text=True)
    if done.returncode:
        raise RunInvalid(f"{shlex.join([*command, str(home / overlay)])} failed:\n{done.stderr.strip()}")
    return list(yaml.safe_load_all(done.stdout))


def _words(request: Request, job: Document) -> list[str]:
    """Returns the job command's words: the run's, then the job's own."""
    notes = job["metadata"]["annotations"]
    words = ["--workers", request.workers, "--accelerator", notes["samestep/accelerator"]]
    words += ["--storage", request.storage or notes["samestep/storage"], "--name", request.name]
    worker = documents.pods(job)[1]
    if TPU_TOPOLOGY in (selector := worker.spec.get("nodeSelector", {})):
        words += ["--topology", selector[TPU_TOPOLOGY], "--devices-per-worker", documents.limits(worker.containers[0])[TPU]]
    return [*words, *request.options]


def _described(request: Request, words: list[str]) -> Run:
    """Returns the run that the words mean to the job's own command, which refuses what it does not know."""
    if "--fresh" in words:
        raise RunInvalid("--fresh would begin a new run whenever the cluster starts the job again. Give a new --name instead.")
    command = [sys.executable, "-m", request.job, *words, "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    if done.returncode == 2:
        # TensorFlow greets before the command has its word.
        raise RunInvalid(done.stderr[max(done.stderr.find(f"python -m {request.job}:"), 0) :].strip())
    try:
        run = Run(**json.loads(done.stdout.splitlines()[-1])["run"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise EnvironmentUnfit(
            f"python -m {request.job} --dry-run did not say what its options mean: {lines[-1] if lines else error}. "
            "Run this where the job can be imported, with samestep[cpu] installed."
        ) from error
    for field, word in (("name", 7), ("workers", 1), ("storage", 5), ("accelerator", 3)):
        value = getattr(run, field)
        text = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
        if text != words[word]:
            raise RunInvalid(
                f"--{field} {text} stands behind the --, where it would part the run from its pods, which have {words[word]}. "
                + ("Choose another --overlay." if field == "accelerator" else f"Give --{field} before the --.")
            )
    if run.most_workers < 1:
        raise RunInvalid("--workers 0 trains in the driver's process, without Ray; a RayJob needs 1 or more.")
    return run


def _size(run: Run, group: Document) -> None:
    """Sets how many pods, or slices of pods, hold the run's workers."""
    spec = group["template"]["spec"]
    limits = documents.limits(spec["containers"][0])
    devices = int(limits.get(TPU) or limits.get(GPU) or 0)
    if run.topology:
        spec["nodeSelector"][TPU_TOPOLOGY] = run.topology
        _slice(run, devices, group)
        counts = [1, 1]
    else:
        cpus = int(limits["cpu"][:-1]) // 1000 if str(limits["cpu"]).endswith("m") else int(limits["cpu"])
        in_pod = cpus // (run.threads_per_worker * (run.devices_per_worker // run.devices_per_process))
        if run.accelerator != "cpu":
            in_pod = min(in_pod, devices // run.devices_per_worker)
        if in_pod < 1:
            raise RunInvalid(
                f"No worker fits in a pod: threads_per_worker={run.threads_per_worker}, devices_per_worker="
                f"{run.devices_per_worker}, and the overlay's pod has {cpus} CPUs and {devices} devices. Ask for less, or "
                "give the overlay's pods more."
            )
        counts = [math.ceil(workers / in_pod) for workers in _bounds(run)]
    group["minReplicas"], group["maxReplicas"] = counts
    group["replicas"] = counts[1]


def _slice(run: Run, chips_in_pod: int, group: Document) -> None:
    """Sets one slice of as many pods as the run has workers."""
    if run.devices_per_worker != chips_in_pod:
        raise RunInvalid(
            f"--devices-per-worker {run.devices_per_worker}: the overlay's TPU machines have {chips_in_pod} chips each, and a "
            f"worker drives its whole host. Give --devices-per-worker {chips_in_pod}, or other machines (TPU_CHIPS_PER_HOST in "
            "k8s/settings.env)."
        )
    group["numOfHosts"] = run.workers


def _bounds(run: Run) -> tuple[int, int]:
    return (run.workers, run.workers) if isinstance(run.workers, int) else run.workers


def _variables(request: Request) -> list[dict[str, Any]]:
    """Returns the job's environment as Kubernetes writes it."""
    found: list[dict[str, Any]] = []
    for word in request.env:
        name, is_given, value = word.partition("=")
        if not is_given or not _VARIABLE.fullmatch(name):
            raise RunInvalid(f"--env {word}: expected NAME=VALUE.")
        if secrecy.looks_secret(name):
            raise RunInvalid(
                f"--env {name}=...: its name says that it is a secret, and a manifest is no place for one. Make a Secret "
                f"(kubectl -n samestep create secret generic NAME --from-file=KEY=FILE) and give --secret-env {name}=NAME:KEY."
            )
        found.append({"name": name, "value": value})
    for word in request.secret_env:
        match = re.fullmatch(rf"({_VARIABLE.pattern})=([a-z0-9]([-.a-z0-9]*[a-z0-9])?):([-._A-Za-z0-9]+)", word)
        if not match:
            raise RunInvalid(
                f"--secret-env {word.partition('=')[0]}=...: expected NAME=SECRET:KEY, the Secret's name and its key."
            )
        found.append({"name": match[1], "valueFrom": {"secretKeyRef": {"name": match[2], "key": match[4]}}})
    return found


def _add(variables: list[dict[str, Any]], pod: documents.Pod) -> None:
    there = pod.containers[0].setdefault("env", [])
    for variable in variables:
        if variable["name"] in (taken["name"] for taken in there):
            raise RunInvalid(
                f"{variable['name']} is given twice, or set by k8s/base already. Name it once, or change it there."
            )
        there.append(variable)
