"""What a run's workers take of a cluster, in Ray's resources and slices, if it is there."""

import collections
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from service.errors import ClusterTooSmall
from service.run import Run

RESOURCE = {"cpu": "CPU", "gpu": "GPU", "tpu": "TPU"}
_TOPOLOGY, _SLICE, _KIND = "ray.io/tpu-topology", "ray.io/tpu-slice-name", "ray.io/accelerator-type"
_FILES = {"gpu": ("/dev", r"nvidia\d+"), "tpu": ("/dev", r"accel\d+")}
_VFIO = ("/dev/vfio", r"\d+")  # the chips of newer TPU hosts

Node = Mapping[str, Any]  # as ray.nodes() gives it


def of_process(run: Run) -> dict[str, float]:
    """Returns the resources of one worker process."""
    taken: dict[str, float] = {"CPU": run.threads_per_worker}
    if run.accelerator != "cpu":
        taken[RESOURCE[run.accelerator]] = run.devices_per_process
    return taken


def scaling(run: Run, nodes: Iterable[Node]) -> dict[str, Any]:
    """Returns how Ray Train places the workers, as the arguments of its ScalingConfig.

    Raises:
        ClusterTooSmall: the kind of TPU is wanted and no slice of the topology is there to tell it.
    """
    placed: dict[str, Any] = {"num_workers": run.processes, "resources_per_worker": of_process(run)}
    if run.accelerator == "gpu":
        placed["use_gpu"] = True
    elif run.accelerator == "tpu":
        placed["use_tpu"] = True
        if run.most_workers > 1:
            placed |= {"topology": run.topology, "accelerator_type": _kind(run, nodes)}
        elif run.topology is not None:
            placed["label_selector"] = {_TOPOLOGY: run.topology}
    return placed


def check(run: Run, nodes: Iterable[Node], where: str) -> None:
    """Refuses a run that the nodes cannot hold, however long it waits.

    Raises:
        ClusterTooSmall: naming what is needed and what is there.
    """
    nodes = list(nodes)
    least = run.processes if isinstance(run.processes, int) else run.processes[0]
    each = of_process(run)
    in_all = collections.Counter[str]()
    for node in nodes:
        in_all.update({name: node["Resources"].get(name, 0.0) for name in each})
    for name, amount in each.items():
        if least * amount > in_all[name]:
            raise ClusterTooSmall(
                f"{_asked(run, name)} needs {_count_of(name, least * amount)}; {where} has {in_all[name]:g} and cannot grow. "
                f"{_fix(name)}"
            )
    if not any(all(node["Resources"].get(name, 0.0) >= amount for name, amount in each.items()) for node in nodes):
        needed = " and ".join(_count_of(name, amount) for name, amount in each.items())
        raise ClusterTooSmall(
            f"{_asked(run)}: one worker process needs {needed} on one machine, which {where} does not have. Ask for less."
        )
    if run.topology is not None:
        _check_slice(run, nodes, where)


def on_this_machine(accelerator: str) -> int:
    """Returns how many devices of a kind a cluster that is started here would find, without TensorFlow or Ray."""
    if accelerator == "gpu" and "CUDA_VISIBLE_DEVICES" in os.environ:
        return len([one for one in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if one.strip() not in ("", "-1")])
    places = [_FILES[accelerator], *([_VFIO] if accelerator == "tpu" else [])]
    return max(_count(folder, pattern) for folder, pattern in places)


def this_machine(accelerator: str) -> Node:
    """Returns the node that a cluster which is started here would have."""
    found: dict[str, float] = {"CPU": float(os.cpu_count() or 1)}
    if accelerator != "cpu":
        found[RESOURCE[accelerator]] = float(on_this_machine(accelerator))
    return {"Resources": found, "Labels": {}}


def _count(folder: str, pattern: str) -> int:
    try:
        return sum(re.fullmatch(pattern, name) is not None for name in os.listdir(folder))
    except OSError:
        return 0


def _check_slice(run: Run, nodes: list[Node], where: str) -> None:
    """Refuses a topology of which no slice is there whole."""
    slices = collections.defaultdict[str, list[Node]](list)
    for node in nodes:
        if node["Labels"].get(_TOPOLOGY) == run.topology:
            slices[node["Labels"].get(_SLICE, "without a name")].append(node)
    hosts = max(run.workers if isinstance(run.workers, int) else 0, 1)
    if any(len(found) >= hosts for found in slices.values()):
        return
    there = sorted({node["Labels"][_TOPOLOGY] for node in nodes if _TOPOLOGY in node["Labels"]})
    parts = ", ".join(f"{name} ({len(found)} of {hosts} hosts)" for name, found in sorted(slices.items()))
    raise ClusterTooSmall(
        f"{_asked(run)} needs a whole slice of {run.topology}; {where} has "
        + (f"only parts of one: {parts}" if parts else f"slices of {', '.join(there)}" if there else "no TPU slice")
        + " and cannot grow. Ask for a topology that is there, or join another cluster (RAY_ADDRESS)."
    )


def _kind(run: Run, nodes: Iterable[Node]) -> str:
    """Returns Ray's name of the kind of TPU that has the topology; a run does not say, for a cluster has one."""
    for node in nodes:
        if node["Labels"].get(_TOPOLOGY) == run.topology and _KIND in node["Labels"]:
            return node["Labels"][_KIND]
    raise ClusterTooSmall(
        f"{_asked(run)}: no slice of {run.topology} is up, so Ray cannot be told which kind of TPU to wait for. Keep one up "
        "(minReplicas: 1 in its worker group), or run it as a RayJob, which starts its slice with it."
    )


def _asked(run: Run, resource: str = "") -> str:
    fields = ["workers", "threads_per_worker"] if resource in ("CPU", "") else ["workers"]
    if run.accelerator != "cpu":
        fields += ["accelerator", "devices_per_worker"]
    if run.topology is not None:
        fields.append("topology")
    return f"Run({', '.join(f'{field}={getattr(run, field)!r}' for field in fields)})"


def _fix(resource: str) -> str:
    if resource == "CPU":
        return "Ask for fewer workers or threads, or join a larger cluster (RAY_ADDRESS)."
    return f"Ask for fewer workers or devices, or join a cluster that has {resource}s (RAY_ADDRESS)."


def _count_of(resource: str, amount: float) -> str:
    return f"{amount:g} {resource}{'' if amount == 1 else 's'}"
