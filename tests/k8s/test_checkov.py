"""Checkov's opinion of every folder, the pods of Ray's kinds taken out, which it does not look into."""

import json
import os
import shutil
import subprocess

import pytest
import yaml

from service.kubernetes.documents import pods
from tests.k8s.conftest import RENDERED, load

pytestmark = pytest.mark.soak
# What is so on purpose: the check, what it may be said of, and why.
ON_PURPOSE = {
    "CKV_K8S_8": ("head", "worker", "submitter"),  # KubeRay gives Ray's containers their probes; a submitter ends by itself
    "CKV_K8S_9": ("head", "worker", "submitter"),
    "CKV_K8S_15": ("head", "worker", "submitter", "tensorboard"),  # a tag here never names another image
    "CKV_K8S_43": ("head", "worker", "submitter", "tensorboard"),  # a digest instead of the tag is the operator's choice
    "CKV_K8S_40": ("head", "worker", "submitter", "tensorboard"),  # the images' own user is 1000
    "CKV_K8S_38": ("overlays head",),  # the autoscaler asks the Kubernetes API
    "CKV_K8S_23": ("tpu worker",),  # the chips' device files are root's
}


@pytest.fixture
def checkov():
    program = os.environ.get("SAMESTEP_CHECKOV") or shutil.which("checkov")
    if program is None:
        pytest.skip("checkov is not here: it wants an environment of its own (pip install checkov), named by SAMESTEP_CHECKOV")
    return program


def unwrapped(documents: list[dict]) -> list[dict]:
    """Returns the documents with each pod of a RayCluster or a RayJob as a Pod of its own."""
    found = []
    for document in documents:
        if not document["kind"].startswith("Ray"):
            found.append(document)
            continue
        for pod in pods(document):
            metadata = {**pod.template["metadata"], "name": pod.role, "namespace": "samestep"}
            found.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec})
    return found


def test_checkov_finds_nothing_but_what_is_so_on_purpose(checkov, render, tmp_path):
    for path in RENDERED:
        name = f"{path.parent.name}-{path.name}.yaml"
        (tmp_path / name).write_text(yaml.safe_dump_all(unwrapped(load(render(path)))))
    words = ["--directory", str(tmp_path), "--framework", "kubernetes", "--output", "json", "--quiet", "--compact"]
    done = subprocess.run([checkov, *words], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["summary"]["parsing_errors"] == 0 and found["summary"]["passed"] > 100 * len(RENDERED)
    others = []
    for failed in found["results"]["failed_checks"]:
        where = f"{failed['file_path']} {failed['resource']}".replace(".", " ").replace("/", " ").replace("-", " ").split()
        allowed = ON_PURPOSE.get(failed["check_id"], ())
        if not any(set(words.split()) <= set(where) for words in allowed):
            others.append(f"{failed['check_id']} {failed['check_name']}: {failed['file_path']} {failed['resource']}")
    assert others == []
