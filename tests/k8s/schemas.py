"""What a document's own schema says against it: Kubernetes's, and KubeRay's with unknown fields refused."""

import functools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import referencing
import yaml

from service.kubernetes.documents import pods

KUBERNETES = "1.37"
# Kinds whose schemas are in no package: Kueue's, and those of Prometheus's operator and of Google's.
WITHOUT_SCHEMA = {("kueue.x-k8s.io/v1beta2", kind) for kind in ("ResourceFlavor", "ClusterQueue", "LocalQueue")} | {
    ("monitoring.googleapis.com/v1", "PodMonitoring"),
    ("monitoring.googleapis.com/v1", "Rules"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
}
Schemas = dict[tuple[str, str], jsonschema.Draft202012Validator]
# Where KubeRay's CRDs are not: all is taken, but what the pods in it are.
UNKNOWN_RAY: Schemas = {("ray.io/v1", kind): jsonschema.Draft202012Validator({}) for kind in ("RayCluster", "RayJob")}


def crd_folders() -> list[Path]:
    """Returns the folders of KubeRay's CRDs, one a version; none where they are not here."""
    place = Path(os.environ.get("SAMESTEP_CRDS") or Path(__file__).parents[3] / "shared" / "crds")
    return sorted({path.parent for path in place.rglob("ray.io_rayjobs.yaml")})


def needed_crds() -> list[Path]:
    """Returns the same; skips the test where there are none."""
    folders = crd_folders()
    if not folders:
        pytest.skip(
            "KubeRay's CRDs are third-party and not kept here: name their folder in SAMESTEP_CRDS, or lay it at ../shared/crds"
        )
    return folders


@functools.cache
def ray_schemas(folder: Path) -> Schemas:
    """Returns the validators of a folder of CRDs, by apiVersion and kind."""
    found: Schemas = {}
    for path in folder.glob("*.yaml"):
        spec = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}  # which the API server checks by itself
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = jsonschema.Draft202012Validator(schema)
    return found


def problems(document: dict, ray: Schemas) -> list[str]:
    """Returns what the schemas say against a document, a line each with the field's path."""
    key = document["apiVersion"], document["kind"]
    validator = ray[key] if key in ray else None if key in WITHOUT_SCHEMA else _kubernetes(*key)
    found = [*_lines(validator, document)] if validator else []
    if key in ray:  # a CRD holds pods to less than Kubernetes does
        for pod in pods(document):
            whole = {"apiVersion": "v1", "kind": "Pod", **pod.template}
            found += [f"{pod.where}: {line}" for line in _lines(_kubernetes("v1", "Pod"), whole)]
    return found


def _lines(validator: jsonschema.Draft202012Validator, document: dict) -> Iterator[str]:
    for error in validator.iter_errors(document):
        yield f"{'.'.join(map(str, error.absolute_path)) or '<root>'}: {error.message[:200]}"


@functools.cache
def _definitions() -> referencing.Resource:
    return referencing.Resource.from_contents(_bundled("_definitions"))


@functools.cache
def _kubernetes(api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    resource = referencing.Resource.from_contents(_bundled(f"{kind.lower()}-{group}"))
    registry = _definitions() @ (resource @ referencing.Registry())
    return jsonschema.Draft202012Validator(resource.contents, registry=registry)


def _bundled(name: str) -> Any:
    """Returns one of the strict schemas that kubernetes-validate brings."""
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    (version,) = folder.glob(f"v{KUBERNETES}*-local-strict")
    path = version / f"{name}.json"
    assert path.exists(), f"Kubernetes {KUBERNETES} has no {name}: the kind or its apiVersion is not one there is"
    return json.loads(path.read_text())


def _strict(schema: dict) -> dict:
    """Returns a CRD's structural schema as the JSON schema that refuses what the API server would prune."""
    schema = dict(schema)
    fields = schema.get("properties", {})
    if fields:
        schema["properties"] = {name: _strict(field) for name, field in fields.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            schema[part] = _strict(schema[part])
    if "required" in schema:  # the API server fills defaults in before it checks
        schema["required"] = [name for name in schema["required"] if "default" not in fields.get(name, {})]
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    schema.pop("format", None)
    return {"anyOf": [schema, {"type": "null"}]} if schema.pop("nullable", False) else schema
