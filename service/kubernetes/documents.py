"""Ray clusters and pod templates, found in the documents that kustomize renders."""

from typing import Any, NamedTuple

Document = dict[str, Any]
PART_OF, COMPONENT = "app.kubernetes.io/part-of", "app.kubernetes.io/component"
GPU, TPU = "nvidia.com/gpu", "google.com/tpu"
GPU_NODES, TPU_NODES = "cloud.google.com/gke-accelerator", "cloud.google.com/gke-tpu-accelerator"
TPU_TOPOLOGY, SPOT = "cloud.google.com/gke-tpu-topology", "cloud.google.com/gke-spot"


class Pod(NamedTuple):
    """One pod template, and where it stands.

    Attributes:
        where: the document and the group, for messages.
        role: head, worker, submitter or other.
        template: with metadata and spec.
    """

    where: str
    role: str
    template: Document

    @property
    def spec(self) -> Document:
        return self.template.get("spec") or {}

    @property
    def containers(self) -> list[Document]:
        return [*self.spec.get("initContainers", []), *self.spec.get("containers", [])]


def ray_cluster(document: Document) -> Document | None:
    """Returns the Ray cluster's specification in a RayCluster or a RayJob, else None."""
    match document["kind"]:
        case "RayCluster":
            return document["spec"]
        case "RayJob":
            return document["spec"].get("rayClusterSpec") or {}
    return None


def pods(document: Document) -> list[Pod]:
    """Returns the pod templates in a document."""
    where = title(document)
    found = []
    if (cluster := ray_cluster(document)) is not None:
        found.append(Pod(f"{where}, head", "head", cluster.get("headGroupSpec", {}).get("template") or {}))
        for group in cluster.get("workerGroupSpecs", []):
            found.append(Pod(f"{where}, {group.get('groupName')}", "worker", group.get("template") or {}))
        if template := document["spec"].get("submitterPodTemplate"):
            found.append(Pod(f"{where}, submitter", "submitter", template))
    elif isinstance(document.get("spec"), dict) and "template" in document["spec"]:
        found.append(Pod(where, "other", document["spec"]["template"]))
    return found


def limits(container: Document) -> Document:
    """Returns how much a container may use, by resource."""
    return container.get("resources", {}).get("limits") or {}


def title(document: Document) -> str:
    """Returns a document's kind and name, for messages."""
    return f"{document['kind']} {document['metadata'].get('name')}"
