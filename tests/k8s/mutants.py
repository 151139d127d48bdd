"""Manifests with one thing wrong each, by a name that says what."""

from collections.abc import Callable
from typing import NamedTuple

from service.kubernetes.documents import Pod, pods, ray_cluster

Documents = list[dict]


class Mutant(NamedTuple):
    """One way to be wrong.

    Attributes:
        name: what is wrong.
        where: the kustomization that is rendered.
        change: makes it wrong, in place.
        by_crd_alone: whether only KubeRay's CRDs, which may not be here, know it.
    """

    name: str
    where: str
    change: Callable[[Documents], object]
    by_crd_alone: bool = False


def of(documents: Documents, kind: str, name: str | None = None) -> dict:
    """Returns the one document of a kind, or of a kind and name."""
    (found,) = [d for d in documents if d["kind"] == kind and name in (None, d["metadata"]["name"])]
    return found


def ray(documents: Documents) -> dict:
    """Returns the RayJob, or the RayCluster."""
    (found,) = [document for document in documents if document["kind"] in ("RayJob", "RayCluster")]
    return found


def cluster(documents: Documents) -> dict:
    return ray_cluster(ray(documents)) or {}


def group(documents: Documents) -> dict:
    return cluster(documents)["workerGroupSpecs"][0]


def pod(documents: Documents, role: str) -> Pod:
    (found,) = [pod for pod in pods(ray(documents)) if pod.role == role]
    return found


def container(documents: Documents, role: str) -> dict:
    return pod(documents, role).spec["containers"][0]


def variable(documents: Documents, role: str, name: str) -> dict:
    (found,) = [variable for variable in container(documents, role)["env"] if variable["name"] == name]
    return found


def limit(documents: Documents, role: str, resource: str, amount: str) -> None:
    for side in container(documents, role)["resources"].values():
        side[resource] = amount


def security(documents: Documents, role: str) -> dict:
    return container(documents, role)["securityContext"]


def put(place: dict, **values: object) -> None:
    place.update(values)


def rule(documents: Documents, policy: str, direction: str, at: int = 0) -> dict:
    return of(documents, "NetworkPolicy", policy)["spec"][direction][at]


def without(documents: Documents, kind: str, name: str) -> None:
    documents.remove(of(documents, kind, name))


def strategic_merge(documents: Documents) -> None:
    """What a strategic merge patch does to a RayJob: the list is replaced, and the template gone."""
    cluster(documents)["workerGroupSpecs"] = [{"groupName": "workers", "minReplicas": 1, "maxReplicas": 4, "template": {}}]


JOB = {
    "a typo in a RayJob's field": lambda d: put(ray(d)["spec"], ttlSecondAfterFinished=1),
    "a typo in a worker group's field": lambda d: put(group(d), minReplica=1),
    "a number as text": lambda d: put(group(d), minReplicas="1"),
    "a token mode that is none": lambda d: put(cluster(d)["authOptions"], mode="jwt"),
}
RUN = {
    "a typo in a pod's field": lambda d: put(pod(d, "worker").spec, terminationGraceSeconds=60),
    "a typo in a container's resources": lambda d: container(d, "worker")["resources"].update(limit={}),
    "a name with capitals": lambda d: put(ray(d)["metadata"], name="Vae-1"),
    "a name of 48 characters": lambda d: put(ray(d)["metadata"], name="v" * 48),
    "no token": lambda d: cluster(d).pop("authOptions"),
    "a token secret of the operator's making": lambda d: cluster(d)["authOptions"].pop("secretName"),
    "tokens by Kubernetes in a RayJob": lambda d: put(cluster(d)["authOptions"], enableK8sTokenAuth=True),
    "no Ray version": lambda d: cluster(d).pop("rayVersion"),
    "a Ray version without tokens": lambda d: put(cluster(d), rayVersion="2.51.0"),
    "auth mode left to the operator": lambda d: container(d, "head")["env"].pop(0),
    "worker templates lost to a merge": strategic_merge,
    "fewer replicas than the least": lambda d: put(group(d), replicas=0),
    "a head that takes workers": lambda d: cluster(d)["headGroupSpec"]["rayStartParams"].clear(),
    "labels among rayStartParams": lambda d: put(group(d)["rayStartParams"], labels="a=b"),
    "resources twice": lambda d: put(cluster(d)["headGroupSpec"], resources={"CPU": "0"}),
    "a redis address without fault tolerance": lambda d: container(d, "head")["env"].append(
        {"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}
    ),
    "a time to live without an end": lambda d: put(ray(d)["spec"], shutdownAfterJobFinishes=False),
    "suspended without an end": lambda d: put(
        ray(d)["spec"], suspend=True, shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=0
    ),
    "no retry": lambda d: put(ray(d)["spec"], backoffLimit=0),
    "no deadline": lambda d: ray(d)["spec"].pop("activeDeadlineSeconds"),
    "no deadline before it runs": lambda d: ray(d)["spec"].pop("preRunningDeadlineSeconds"),
    "a sidecar with a submitter": lambda d: put(ray(d)["spec"], submissionMode="SidecarMode"),
    "an interactive job with retries": lambda d: put(ray(d)["spec"], submissionMode="InteractiveMode"),
    "a job for another cluster with retries": lambda d: put(ray(d)["spec"], clusterSelector={"ray.io/cluster": "x"}),
    "no entrypoint": lambda d: ray(d)["spec"].pop("entrypoint"),
    "grace as long as the drain": lambda d: put(pod(d, "worker").spec, terminationGracePeriodSeconds=30),
    "grace left to Kubernetes": lambda d: pod(d, "head").spec.pop("terminationGracePeriodSeconds"),
    "a drain too short for a commit": lambda d: put(variable(d, "worker", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"), value="5"),
    "a stop that kills after Ray's 3 s": lambda d: container(d, "head")["env"].remove(
        variable(d, "head", "RAY_JOB_STOP_WAIT_TIME_S")
    ),
    "a user of root": lambda d: put(pod(d, "worker").spec["securityContext"], runAsUser=0),
    "root not ruled out": lambda d: pod(d, "submitter").spec["securityContext"].pop("runAsNonRoot"),
    "no seccomp profile": lambda d: pod(d, "head").spec["securityContext"].pop("seccompProfile"),
    "a privileged container": lambda d: put(security(d, "worker"), privileged=True),
    "privileges that may grow": lambda d: security(d, "head").pop("allowPrivilegeEscalation"),
    "a capability added": lambda d: put(security(d, "worker"), capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    "capabilities kept": lambda d: security(d, "worker").pop("capabilities"),
    "an image that is written to": lambda d: put(security(d, "worker"), readOnlyRootFilesystem=False),
    "the node's network": lambda d: put(pod(d, "worker").spec, hostNetwork=True),
    "the node's files": lambda d: pod(d, "worker").spec["volumes"].append({"name": "root", "hostPath": {"path": "/"}}),
    "no limits": lambda d: container(d, "worker").pop("resources"),
    "a limit of no memory": lambda d: [side.pop("memory") for side in container(d, "head")["resources"].values()],
    "requests below limits": lambda d: put(container(d, "worker")["resources"]["requests"], cpu="1"),
    "the newest image": lambda d: put(container(d, "worker"), image="registry.invalid/samestep-gpu:latest"),
    "an image without a tag": lambda d: put(container(d, "submitter"), image="localhost:5000/samestep-cpu"),
    "a secret in clear text": lambda d: container(d, "worker")["env"].append({"name": "HF_TOKEN", "value": "hf_x"}),
    "a Secret in git": lambda d: d.append(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "stringData": {"auth_token": "x"}}
    ),
    "the default service account": lambda d: pod(d, "worker").spec.pop("serviceAccountName"),
    "a pod without our label": lambda d: pod(d, "worker").template["metadata"]["labels"].pop("app.kubernetes.io/part-of"),
    "a pod of no run": lambda d: pod(d, "head").template["metadata"]["labels"].pop("samestep/run"),
    "a submitter that no policy knows": lambda d: put(
        pod(d, "submitter").template["metadata"]["labels"], **{"app.kubernetes.io/component": "job"}
    ),
    "GPUs without their nodes": lambda d: pod(d, "worker").spec["nodeSelector"].pop("cloud.google.com/gke-accelerator"),
    "GPU nodes without GPUs": lambda d: [s.pop("nvidia.com/gpu") for s in container(d, "worker")["resources"].values()],
    "GPU nodes whose taint is not tolerated": lambda d: pod(d, "worker").spec["tolerations"].clear(),
    "no policy that denies": lambda d: without(d, "NetworkPolicy", "default-deny"),
    "names that cannot be looked up": lambda d: without(d, "NetworkPolicy", "dns"),
    "an operator that is kept out": lambda d: of(d, "NetworkPolicy", "head-jobs")["spec"]["ingress"].pop(1),
    "a submitter that is kept out": lambda d: of(d, "NetworkPolicy", "head-jobs")["spec"]["ingress"].pop(0),
    "a jobs API open to all": lambda d: rule(d, "head-jobs", "ingress").pop("from"),
    "a jobs API open to the namespace": lambda d: put(rule(d, "head-jobs", "ingress"), **{"from": [{"podSelector": {}}]}),
    "Ray's ports open to other namespaces": lambda d: put(rule(d, "ray", "ingress")["from"][0], namespaceSelector={}),
    "an operator with all ports": lambda d: rule(d, "head-jobs", "ingress", 1).pop("ports"),
    "the whole private network": lambda d: rule(d, "cloud", "egress", 3)["to"][0]["ipBlock"].pop("except"),
    "storage that is out of reach": lambda d: of(d, "NetworkPolicy", "cloud")["spec"]["egress"].pop(),
    "no identity from the metadata server": lambda d: of(d, "NetworkPolicy", "cloud")["spec"]["egress"].pop(0),
    "metrics for everybody": lambda d: rule(d, "metrics", "ingress").pop("from"),
    "a policy in another namespace": lambda d: put(of(d, "NetworkPolicy", "ray")["metadata"], namespace="default"),
    "a typo in a policy": lambda d: put(of(d, "NetworkPolicy", "dns")["spec"], policyType=["Egress"]),
    "no pod security level": lambda d: of(d, "Namespace")["metadata"]["labels"].clear(),
    "no budget": lambda d: without(d, "PodDisruptionBudget", "ray"),
    "a budget that Kubernetes cannot count": lambda d: put(
        of(d, "PodDisruptionBudget"), spec={"maxUnavailable": 0, "selector": {}}
    ),
    "TensorBoard on the internet": lambda d: put(of(d, "Service")["spec"], type="LoadBalancer"),
    "an Ingress": lambda d: d.append({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "x"}}),
    "a head on the internet": lambda d: put(cluster(d)["headGroupSpec"], serviceType="LoadBalancer"),
    "TensorBoard as root": lambda d: of(d, "Deployment")["spec"]["template"]["spec"].pop("securityContext"),
}
CLUSTER = {
    "an autoscaler whose pods start again": lambda d: put(pod(d, "worker").spec, restartPolicy="Always"),
    "a cluster's name of 54 characters": lambda d: put(ray(d)["metadata"], name="v" * 54),
    "an autoscaler without the Kubernetes API": lambda d: without(d, "NetworkPolicy", "autoscaler"),
}
TPU = {
    "a topology of other chips": lambda d: put(
        pod(d, "worker").spec["nodeSelector"], **{"cloud.google.com/gke-tpu-topology": "4x4"}
    ),
    "a topology that is no shape": lambda d: put(
        pod(d, "worker").spec["nodeSelector"], **{"cloud.google.com/gke-tpu-topology": "2by2"}
    ),
    "more hosts than chips": lambda d: put(group(d), numOfHosts=2),
    "half a host": lambda d: limit(d, "worker", "google.com/tpu", "2"),
    "TPU nodes whose taint is not tolerated": lambda d: pod(d, "worker").spec["tolerations"].clear(),
    "TPUs without their nodes": lambda d: pod(d, "worker").spec["nodeSelector"].pop("cloud.google.com/gke-tpu-accelerator"),
}
SPOT = {
    "spot nodes whose taint is not tolerated": lambda d: pod(d, "worker").spec["tolerations"].pop(),
    "a head on a spot node": lambda d: put(pod(d, "head").spec["nodeSelector"], **{"cloud.google.com/gke-spot": "true"}),
    "a head that may land on a spot node": lambda d: pod(d, "head").spec.pop("affinity"),
}
KUEUE = {
    "a queue as an annotation": lambda d: put(ray(d)["metadata"]["annotations"], **{"kueue.x-k8s.io/queue-name": "samestep"}),
    "a queued cluster that scales itself": lambda d: put(cluster(d), enableInTreeAutoscaling=True),
}
MUTANTS = [
    *(Mutant(name, "runs/gpu", change, by_crd_alone=True) for name, change in JOB.items()),
    *(Mutant(name, "runs/gpu", change) for name, change in RUN.items()),
    *(Mutant(name, "overlays/gpu", change) for name, change in CLUSTER.items()),
    *(Mutant(name, "runs/tpu", change) for name, change in TPU.items()),
    *(Mutant(name, "runs/spot", change) for name, change in SPOT.items()),
    *(Mutant(name, "runs/kueue", change) for name, change in KUEUE.items()),
]
