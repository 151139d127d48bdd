"""The Ray cluster that is there, or one of this machine, and whether the workers fit."""

import contextlib
import json
import logging
import os
import pathlib
import re
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from service.cluster import devices, loopback
from service.errors import EnvironmentUnfit
from service.run import Run

# Read by Ray Train's processes, which copy them from the driver.
_QUIET = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    # Ray Train counts on machines that are gone for a while; then it looks again what there is.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # the only one of a run's workers, stopped from outside
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_IN_KUBERAY = "RAY_USAGE_STATS_KUBERAY_IN_USE"  # which the operator sets in every pod of Ray's
_NAMED_BY_NODE = re.compile(r"node_[0-9a-f]+")


@contextmanager
def joined(run: Run) -> Iterator[None]:
    """Joins the cluster that this process has joined, that RAY_ADDRESS names, or that runs on this machine; else starts one.

    A cluster started here binds to loopback, keeps Ray's token on, and ends with the block.

    Raises:
        ClusterTooSmall: the cluster cannot hold the workers and cannot grow.
        EnvironmentUnfit: the cluster does not let this driver in.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    is_ours = False
    if not ray.is_initialized():
        if address := found_address():
            try:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            except ConnectionError as error:
                raise EnvironmentUnfit(
                    f"The Ray cluster at {address} does not let this driver in: {error}. Give its token "
                    "(RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH), or set RAY_ADDRESS=local to start one on this machine."
                ) from error
        else:
            _make_token()
            with loopback.around_ray():
                ray.init(
                    address="local",
                    num_cpus=os.cpu_count(),
                    log_to_driver=False,
                    logging_level="ERROR",
                    configure_logging=False,
                )
        is_ours = True
    try:
        if not _can_grow():
            devices.check(run, [node for node in ray.nodes() if node["Alive"]], "the cluster")
        yield
    finally:
        if is_ours:
            ray.shutdown()


def _make_token() -> None:
    """Makes the token of this user's clusters where there is none; the file that Ray would make, everyone may read."""
    folder = pathlib.Path.home() / ".ray"
    token = folder / "auth_token"
    if token.exists() or os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        return
    with contextlib.suppress(OSError):  # another driver was first, or Ray will say what is wrong with the folder
        folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder) as file:  # its user's alone
            file.write(secrets.token_hex(32))
            file.flush()
            os.link(file.name, token)


def check_machine(run: Run) -> None:
    """Refuses, without importing Ray, workers that do not fit a cluster which would be started on this machine.

    Raises:
        ClusterTooSmall: naming what is there.
    """
    loaded = sys.modules.get("ray")
    joins = (loaded is not None and loaded.is_initialized()) or found_address() is not None
    if not joins:
        devices.check(run, [devices.this_machine(run.accelerator)], "this machine")


def by_value(job: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the job as it is, which pickles by value, after saying what that costs."""
    print(
        f"The job {getattr(job, '__qualname__', job)!r} is no function at the top of a module, so it is sent to the workers "
        "as it is now: load_model will not find its classes, and a later attempt may run other code. "
        "Move it to a module to keep those promises.",
        file=sys.stderr,
    )
    return job


def found_address() -> str | None:
    """Returns the address of the cluster to join: RAY_ADDRESS, or what `ray start` left on this machine if it still answers.

    Every user can write to /tmp: what another one left there would get this one's token.
    """
    if os.environ.get("RAY_ADDRESS"):
        return None if os.environ["RAY_ADDRESS"] == "local" else os.environ["RAY_ADDRESS"]
    try:
        left = pathlib.Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
        if left.stat().st_uid not in (0, os.geteuid()):
            return None
        address = left.read_text().strip()
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=1):
            return address
    except (OSError, ValueError):  # no file, or one of a cluster that is gone
        return None


def _can_grow() -> bool:
    """Whether machines can come: KubeRay's operator makes a new pod for each that is gone, and an autoscaler adds some.

    Ray's monitor reports on every cluster, also where it only looks: it then names a type after each node there is
    (ray 2.60, autoscaler/_private/util.py). Kinds of machines have names that somebody gave them.
    """
    if _IN_KUBERAY in os.environ:
        return True
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2(fetch_from_server=True):
        return True
    report = json.loads(_internal_kv_get("__autoscaling_status") or "{}").get("autoscaler_report") or {}
    kinds = {*(report.get("active_nodes") or {}), *(report.get("idle_nodes") or {})}
    return any(not _NAMED_BY_NODE.fullmatch(kind) for kind in kinds)
