"""What KubeRay's operator makes of a RayJob's pods: the commands, environment and probe of their containers.

Restated from KubeRay 1.6 (ray-operator/controllers/ray/common/pod.go and job.go); where it may differ, a cluster tells.
"""

import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from service.kubernetes.documents import GPU, Document, limits, pods

HEALTH = 52365  # the dashboard agent's port, where the probes ask
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class Container(NamedTuple):
    """What runs in a pod.

    Attributes:
        command: a line for a shell.
        env: by name.
    """

    command: str
    env: dict[str, str]


def service_of(job: Document) -> str:
    """Returns the DNS name of the head."""
    return f"{job['metadata']['name']}-head-svc.{job['metadata']['namespace']}.svc.cluster.local"


Secrets = Mapping[tuple[str, str], str]  # by the Secret's name and its key


def head(job: Document, secrets: Secrets) -> Container:
    """Returns the head's container."""
    pod = _pod(job, "head")
    words = {"dashboard-host": "0.0.0.0", **_usual(pod), **job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]}
    return Container(f"ulimit -n 65536; ray start --head {_flags(words)}", _env(job, pod, secrets))


def worker(job: Document, secrets: Secrets) -> Container:
    """Returns a worker's container, behind what its init container waits for."""
    pod = _pod(job, "worker")
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    address = f"{service_of(job)}:6379"
    words = {"address": address, **_usual(pod), **group["rayStartParams"]}
    waits = f"until ray health-check --address {address} > /dev/null 2>&1; do sleep 1; done"
    return Container(f"{waits}; ulimit -n 65536; ray start {_flags(words)}", _env(job, pod, secrets))


def submitter(job: Document, secrets: Secrets, submission: str) -> Container:
    """Returns the submitter's container."""
    address = f"http://{service_of(job)}:8265"
    asked = f"ray job status --address {address} {submission} >/dev/null 2>&1"
    send = f"ray job submit --address {address} --no-wait --submission-id {submission} -- {job['spec']['entrypoint']}"
    follow = f"ray job logs --address {address} --follow {submission}"
    env = _env(job, _pod(job, "submitter"), secrets)
    return Container(f"if ! {asked} ; then {send} ; fi ; {follow}", env | {"RAY_JOB_SUBMISSION_ID": submission})


def _pod(job: Document, role: str) -> Any:
    return next(pod for pod in pods(job) if pod.role == role)


def _usual(pod: Any) -> dict[str, str]:
    given = limits(pod.containers[0])
    cpus = str(given["cpu"])
    words = {
        "num-cpus": cpus if not cpus.endswith("m") else str(-(-int(cpus[:-1]) // 1000)),
        "memory": str(int(given["memory"][:-2]) * _UNITS[given["memory"][-2:]]),
        "metrics-export-port": "8080",
        "dashboard-agent-listen-port": str(HEALTH),
    }
    return words | ({"num-gpus": given[GPU]} if GPU in given else {})


def _flags(words: dict[str, str]) -> str:
    return " ".join(["--block", *(f"--{name}={shlex.quote(value)}" for name, value in sorted(words.items()))])


def _env(job: Document, pod: Any, secrets: Secrets) -> dict[str, str]:
    found = {}
    for one in pod.containers[0].get("env", []):
        reference = one.get("valueFrom", {}).get("secretKeyRef")
        found[one["name"]] = secrets[reference["name"], reference["key"]] if reference else one["value"]
    asked = job["spec"]["rayClusterSpec"]["authOptions"]
    mine = {"RAY_CLUSTER_NAME": job["metadata"]["name"], "RAY_USAGE_STATS_KUBERAY_IN_USE": "1"}
    return {**found, **mine, "RAY_AUTH_MODE": asked["mode"], "RAY_AUTH_TOKEN": secrets[asked["secretName"], "auth_token"]}
