"""What keeps a manifest closed: tokens, policies, identities, pods that may do little."""

from collections.abc import Iterator

from service import secrecy
from service.kubernetes.documents import COMPONENT, PART_OF, TPU, Document, Pod, limits, pods, ray_cluster, title


def problems(documents: list[Document]) -> list[str]:
    """Returns what stands open in the rendered documents, a sentence each; empty where nothing does."""
    found = [*_of_the_whole(documents)]
    for document in documents:
        found += _of_objects(document)
        if (cluster := ray_cluster(document)) is not None:
            found += _of_clusters(title(document), cluster)
        for pod in pods(document):
            found += (f"{pod.where}: {text}" for text in (*_of_labels(pod), *_of_security(pod)))
            for container in pod.containers:
                found += (f"{pod.where}, {container.get('name')}: {text}" for text in _of_containers(container))
    return found


def _of_the_whole(documents: list[Document]) -> Iterator[str]:
    kinds = {document["kind"] for document in documents}
    if not kinds & {"RayJob", "RayCluster"}:
        return
    namespaces = [document for document in documents if document["kind"] == "Namespace"]
    if not any("pod-security.kubernetes.io/enforce" in d["metadata"].get("labels", {}) for d in namespaces):
        yield "No Namespace enforces a pod security level: label it pod-security.kubernetes.io/enforce."
    if not any(_denies_all(d["spec"]) for d in documents if d["kind"] == "NetworkPolicy"):
        yield "No NetworkPolicy denies by default: one needs podSelector {}, both policyTypes and no rule."
    if not any(d["spec"].get("minAvailable", 0) for d in documents if d["kind"] == "PodDisruptionBudget"):
        yield "No PodDisruptionBudget keeps a run's pods: one needs a minAvailable above 0."


def _denies_all(policy: Document) -> bool:
    types = set(policy.get("policyTypes", []))
    return (
        policy["podSelector"] == {}
        and types == {"Ingress", "Egress"}
        and not policy.get("ingress")
        and not policy.get("egress")
    )


def _of_objects(document: Document) -> Iterator[str]:
    kind, spec = document["kind"], document.get("spec") or {}
    where = title(document)
    if kind in ("Secret", "Ingress"):
        yield f"{where}: no {kind} belongs here; secrets are made by the cluster's operator, and nothing is public."
    if kind == "Service" and spec.get("type", "ClusterIP") != "ClusterIP":
        yield f"{where}: type {spec['type']} can be reached from outside; expected ClusterIP."
    if kind == "PodDisruptionBudget" and "maxUnavailable" in spec:
        yield f"{where}: Kubernetes counts maxUnavailable only for its own workloads, not for Ray's pods; use minAvailable."


def _of_clusters(where: str, cluster: Document) -> Iterator[str]:
    auth, head = cluster.get("authOptions", {}), cluster.get("headGroupSpec", {})
    if auth.get("mode") != "token" or not auth.get("secretName"):
        yield f"{where}: authOptions need mode token and secretName; without a token anybody who reaches the head runs code."
    if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress"):
        yield f"{where}: the head's jobs API must not be reachable from outside: serviceType ClusterIP, no ingress."


def _of_labels(pod: Pod) -> Iterator[str]:
    labels = pod.template.get("metadata", {}).get("labels", {})
    if labels.get(PART_OF) != "samestep":
        yield f"label {PART_OF}: samestep is missing, by which policies and budgets find the pod."
    if pod.role != "other" and labels.get(COMPONENT) != pod.role:
        yield f"label {COMPONENT}: {pod.role} is missing, by which policies know what the pod may reach."
    if pod.role != "other" and not labels.keys() & {"samestep/run", "samestep/cluster"}:
        yield "label samestep/run (or samestep/cluster) is missing."
    if pod.spec.get("serviceAccountName", "default") == "default":
        yield "serviceAccountName is missing, so the pod has no identity of its own."
    variables = {variable["name"]: variable.get("value") for c in pod.containers[:1] for variable in c.get("env", [])}
    if pod.role in ("head", "worker") and variables.get("RAY_AUTH_MODE") != "token":
        yield "RAY_AUTH_MODE=token is missing, without which an operator that knows no authOptions starts an open cluster."


def _of_security(pod: Pod) -> Iterator[str]:
    security, has_tpu = pod.spec.get("securityContext", {}), any(TPU in limits(c) for c in pod.containers)
    if not has_tpu and (not security.get("runAsNonRoot") or security.get("runAsUser", 0) == 0):
        yield "expected runAsNonRoot and a runAsUser that is not 0; only a TPU's device files need root."
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "expected seccompProfile RuntimeDefault."
    if any(pod.spec.get(word) for word in ("hostNetwork", "hostPID", "hostIPC")):
        yield "hostNetwork, hostPID and hostIPC open the node to the pod."
    if any("hostPath" in volume for volume in pod.spec.get("volumes", [])):
        yield "a hostPath volume opens the node to the pod."


def _of_containers(container: Document) -> Iterator[str]:
    security, most = container.get("securityContext", {}), limits(container)
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        yield "expected allowPrivilegeEscalation false and no privileged."
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield "expected capabilities drop [ALL], and none added."
    if not security.get("readOnlyRootFilesystem"):
        yield "expected readOnlyRootFilesystem."
    if missing := {"cpu", "memory", "ephemeral-storage"} - most.keys():
        yield f"limits name no {', '.join(sorted(missing))}."
    if most != container.get("resources", {}).get("requests"):
        yield "requests and limits differ: the node may then take back what the pod was promised."
    image, _, tag = container.get("image", "").rpartition(":")
    if "@sha256" not in image and (not image or "/" in tag or tag == "latest"):
        yield f"image {container.get('image')} needs a tag that stays what it is."
    for variable in container.get("env", []):
        if secrecy.looks_secret(variable["name"]) and "value" in variable:
            yield f"{variable['name']} looks like a secret, and its value stands here; give it by secretKeyRef."
