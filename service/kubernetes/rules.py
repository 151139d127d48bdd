"""What KubeRay's operator and the nodes ask of a manifest, beyond its schema.

The operator refuses some RayJobs only after the API server has taken them, and a pod that no
node takes waits for ever. So each rule is told before, from the rendered documents alone.
"""

import re
from collections.abc import Iterator

from service.kubernetes.documents import (
    GPU,
    GPU_NODES,
    SPOT,
    TPU,
    TPU_NODES,
    TPU_TOPOLOGY,
    Document,
    Pod,
    limits,
    pods,
    ray_cluster,
    title,
)
from service.run import chips

MOST_CHARACTERS = {"RayJob": 47, "RayCluster": 53}
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # a DNS-1035 label


def problems(documents: list[Document]) -> list[str]:
    """Returns what the operator would refuse and what no node would take, a sentence each; empty where all is well."""
    found: list[str] = []
    for document in documents:
        if (cluster := ray_cluster(document)) is not None:
            found += _of_names(document)
            found += _of_clusters(title(document), cluster)
        if document["kind"] == "RayJob":
            found += _of_jobs(document)
        for pod in pods(document):
            if pod.spec.get("containers"):
                found += (f"{pod.where}: {text}" for text in (*_of_nodes(pod), *_of_grace(pod)))
            else:
                found.append(f"{pod.where}: the pod template has no container.")
    return found


def is_name(text: str, most: int = 63) -> bool:
    """Whether the text may name an object of Kubernetes: a DNS-1035 label of at most so many characters."""
    return len(text) <= most and _NAME.fullmatch(text) is not None


def _of_names(document: Document) -> Iterator[str]:
    kind, name = document["kind"], document["metadata"].get("name", "")
    if not is_name(name, MOST_CHARACTERS[kind]):
        yield f"{kind} {name}: expected at most {MOST_CHARACTERS[kind]} small letters, digits and dashes, a letter first."


def _of_jobs(document: Document) -> Iterator[str]:
    spec, where = document["spec"], title(document)
    mode, selects = spec.get("submissionMode", "K8sJobMode"), bool(spec.get("clusterSelector"))
    retries, ends = _whole(spec, "backoffLimit"), spec.get("shutdownAfterJobFinishes", False)
    ttl, cluster = _whole(spec, "ttlSecondsAfterFinished"), spec.get("rayClusterSpec") or {}
    is_queued = "kueue.x-k8s.io/queue-name" in document["metadata"].get("labels", {})
    rules = {
        "suspend needs shutdownAfterJobFinishes": spec.get("suspend", False) and not ends,
        "a RayJob has a rayClusterSpec or a clusterSelector": not cluster and not selects,
        "ttlSecondsAfterFinished is 0 or more, and above 0 needs shutdownAfterJobFinishes": ttl < 0 or (ttl > 0 and not ends),
        "clusterSelector excludes backoffLimit, suspend and SidecarMode": selects
        and (retries > 0 or spec.get("suspend", False) or mode == "SidecarMode"),
        "InteractiveMode excludes backoffLimit": mode == "InteractiveMode" and retries > 0,
        "SidecarMode excludes submitterPodTemplate and submitterConfig": mode == "SidecarMode"
        and ("submitterPodTemplate" in spec or "submitterConfig" in spec),
        "backoffLimit is 1 or more, for a lost head ends the run otherwise": not selects and retries < 1,
        "activeDeadlineSeconds is set and above 0": _whole(spec, "activeDeadlineSeconds") <= 0,
        "preRunningDeadlineSeconds is set and above 0, for nodes that never come": spec.get("preRunningDeadlineSeconds", 0)
        <= 0,
        "shutdownAfterJobFinishes is true, for a cluster that nobody uses costs as much": not selects and not ends,
        "the entrypoint is a job's command": not re.match(r"python -m \S", spec.get("entrypoint", "")),
        "Kueue reads queue-name from a label": "kueue.x-k8s.io/queue-name" in document["metadata"].get("annotations", {}),
        "Kueue cannot queue a cluster that scales itself": is_queued and cluster.get("enableInTreeAutoscaling", False),
        "enableK8sTokenAuth is refused in a RayJob": cluster.get("authOptions", {}).get("enableK8sTokenAuth", False),
    }
    yield from (f"{where}: {rule}." for rule, is_broken in rules.items() if is_broken)


def _of_clusters(where: str, cluster: Document) -> Iterator[str]:
    head = cluster.get("headGroupSpec", {})
    version = re.match(r"(\d+)\.(\d+)\.\d+", str(cluster.get("rayVersion", "")))
    if not version or tuple(map(int, version.groups())) < (2, 53):
        yield f"{where}: rayVersion must be set and 2.53.0 or later: the operator chooses tokens and probes by it."
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield f'{where}: the head needs rayStartParams num-cpus "0", or workers land on it.'
    if not cluster.get("workerGroupSpecs"):
        yield f"{where}: there is no worker group."
    scales = cluster.get("enableInTreeAutoscaling", False)
    if "gcsFaultToleranceOptions" not in cluster and "RAY_REDIS_ADDRESS" in _variables(head.get("template") or {}):
        yield f"{where}: RAY_REDIS_ADDRESS needs gcsFaultToleranceOptions."
    for group in [head, *cluster.get("workerGroupSpecs", [])]:
        name, start = group.get("groupName", "head"), group.get("rayStartParams") or {}
        if "labels" in start:
            yield f"{where}, {name}: the operator rejects rayStartParams.labels; write the group's labels."
        if group.get("resources") and start.keys() & {"num-cpus", "num-gpus", "memory", "resources"}:
            yield f"{where}, {name}: resources stand both in the group and in rayStartParams; the operator takes one."
        bounds = [_whole(group, field) for field in ("minReplicas", "replicas", "maxReplicas")]
        if group is not head and not 0 <= bounds[0] <= bounds[1] <= bounds[2]:
            yield f"{where}, {name}: expected whole numbers, minReplicas <= replicas <= maxReplicas."
        if scales and (group.get("template") or {}).get("spec", {}).get("restartPolicy", "Never") != "Never":
            yield f"{where}, {name}: the autoscaler needs restartPolicy Never."
        if group is not head and _has_tpu(group):
            yield from _of_slices(f"{where}, {name}", group)


def _has_tpu(group: Document) -> bool:
    spec = (group.get("template") or {}).get("spec", {})
    selects = spec.get("nodeSelector", {}).keys() & {TPU_NODES, TPU_TOPOLOGY}
    return bool(selects) or any(TPU in limits(container) for container in spec.get("containers", []))


def _of_slices(where: str, group: Document) -> Iterator[str]:
    spec = group["template"]["spec"]
    topology = spec.get("nodeSelector", {}).get(TPU_TOPOLOGY, "")
    given = limits(spec["containers"][0]).get(TPU, 0)
    try:
        in_slice, in_pod = chips(topology), int(given)
    except ValueError:
        yield f"{where}: gke-tpu-topology {topology!r} is no shape such as 2x4, or google.com/tpu {given!r} no whole number."
        return
    if in_slice != group.get("numOfHosts", 1) * in_pod:
        yield (
            f"{where}: topology {topology} has {in_slice} chips, numOfHosts {group.get('numOfHosts', 1)} x google.com/tpu "
            f"{in_pod} are {group.get('numOfHosts', 1) * in_pod}. Such a slice waits for ever."
        )


def _of_nodes(pod: Pod) -> Iterator[str]:
    selector, most = pod.spec.get("nodeSelector", {}), limits(pod.spec["containers"][0])
    tolerated = {toleration.get("key") for toleration in pod.spec.get("tolerations", [])}
    if pod.role == "head" and (SPOT in selector or SPOT in tolerated or not _keeps_off_spot(pod.spec)):
        yield "the head must keep off spot nodes: an affinity with gke-spot DoesNotExist, no selector or toleration."
    for resource, label in ((GPU, GPU_NODES), (TPU, TPU_NODES)):
        if (resource in most) != (label in selector):
            yield f"{resource} in the limits and nodeSelector {label} go together."
        if resource in most and resource not in tolerated:
            yield f"the nodes' taint {resource} is not tolerated, so no node takes the pod."
    if SPOT in selector and SPOT not in tolerated:
        yield f"the nodes' taint {SPOT} is not tolerated, so no node takes the pod."


def _keeps_off_spot(spec: Document) -> bool:
    affinity = spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = affinity.get("nodeSelectorTerms", [])  # one of them is enough for Kubernetes, so each must say it
    off = {"key": SPOT, "operator": "DoesNotExist"}
    return bool(terms) and all(off in term.get("matchExpressions", []) for term in terms)


def _of_grace(pod: Pod) -> Iterator[str]:
    if pod.role not in ("head", "worker"):
        return
    variables = _variables(pod.template)
    grace = pod.spec.get("terminationGracePeriodSeconds", 30)
    for name in ("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "RAY_JOB_STOP_WAIT_TIME_S"):
        if not 25 < float(variables.get(name) or 0) < grace:
            yield f"expected {name} between the 25 s that a commit may take and terminationGracePeriodSeconds {grace}."


def _variables(template: Document) -> dict[str, str | None]:
    containers = template.get("spec", {}).get("containers") or [{}]
    return {variable["name"]: variable.get("value") for variable in containers[0].get("env", [])}


def _whole(place: Document, field: str) -> int:
    """Returns a field's whole number, 0 where there is none, and -1, which no rule takes, for what is no whole number."""
    value = place.get(field, 0)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1
