"""The real kubectl against an API server on loopback: the manifests are applied, refused, compared and deleted."""

import json
import subprocess
from typing import NamedTuple

import pytest

from service.kubernetes.documents import pods
from tests.k8s import schemas
from tests.k8s.api_server import Cluster, Place, serve
from tests.k8s.conftest import ROOT, load
from tests.k8s.mutants import of, ray


class Client(NamedTuple):
    """A kubectl that talks to a cluster of its own."""

    cluster: Cluster
    words: list[str]
    environment: dict[str, str]

    def __call__(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*self.words, *words], input=text, capture_output=True, text=True, env=self.environment, timeout=60
        )

    def kept(self, kind: str) -> list[str]:
        """Returns the names of a kind's objects in the cluster."""
        return [place.name for place in self.cluster.objects if place.kind == kind]


@pytest.fixture
def client(kubectl, environment, tmp_path):
    crds = schemas.crd_folders()
    known = schemas.ray_schemas(crds[0]) if crds else schemas.UNKNOWN_RAY
    cluster = Cluster(lambda document: schemas.problems(document, known))
    server = serve(cluster)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    (tmp_path / "config").write_text(json.dumps(config))
    words = [str(kubectl), "--kubeconfig", str(tmp_path / "config"), "--cache-dir", str(tmp_path / "cache")]
    try:
        yield Client(cluster, words, environment)
    finally:
        server.shutdown()
        server.server_close()


def test_a_run_is_applied_with_its_namespace_and_policies_and_applying_it_again_changes_nothing(client, render):
    text = render(ROOT / "k8s/runs/gpu")
    first = client("apply", "-f", "-", text=text)
    assert first.returncode == 0, first.stderr
    documents = load(text)
    assert len(client.cluster.objects) == len(documents)
    assert all(line.endswith(" created") for line in first.stdout.splitlines()), first.stdout
    kept = client.cluster.objects[Place("ray.io/v1", "rayjobs", "samestep", "digits-vae")]
    assert kept["spec"] == of(documents, "RayJob")["spec"]
    before = client.cluster.content()
    again = client("apply", "-f", "-", text=text)
    assert again.returncode == 0, again.stderr
    assert client.cluster.content() == before
    # A budget's selector is sent whole each time, whatever it is.
    said = [line for line in again.stdout.splitlines() if not line.endswith(" unchanged")]
    assert said == ["poddisruptionbudget.policy/ray configured"]


def test_only_the_run_is_applied_where_its_label_is_asked_for(client, render):
    done = client("apply", "-f", "-", "-l", "samestep/run=digits-vae", text=render(ROOT / "k8s/runs/gpu"))
    assert (done.returncode, done.stdout) == (0, "rayjob.ray.io/digits-vae created\n"), done.stderr


def test_the_long_lived_cluster_is_applied_from_its_folder(client, render):
    done = client("apply", "-k", str(ROOT / "k8s/overlays/local"))
    assert done.returncode == 0, done.stderr
    assert (client.kept("RayCluster"), client.kept("RayJob"), client.kept("Deployment")) == (["samestep"], [], ["tensorboard"])
    assert {place.namespace for place in client.cluster.objects} == {"", "samestep"}
    # The namespace is there before what lives in it.
    made = [target.split("?")[0] for method, target in client.cluster.requests if method == "POST"]
    assert made[0] == "/api/v1/namespaces"


@pytest.mark.parametrize("mode", ["--dry-run=server", "--dry-run=none"])
def test_what_a_schema_refuses_is_refused_and_not_kept(client, render, mode):
    documents = load(render(ROOT / "k8s/runs/gpu"))
    pods(ray(documents))[1].spec["terminationGraceSeconds"] = 60
    done = client("apply", mode, "-f", "-", text=json.dumps(ray(documents)))
    assert done.returncode == 1 and "is invalid" in done.stderr and "terminationGraceSeconds" in done.stderr
    assert client.cluster.objects == {}


def test_a_dry_run_says_what_it_would_do_and_does_nothing(client, render):
    done = client("apply", "--dry-run=server", "-f", "-", "-l", "samestep/run", text=render(ROOT / "k8s/runs/tpu"))
    assert (done.returncode, done.stdout) == (0, "rayjob.ray.io/digits-vae created (server dry run)\n"), done.stderr
    assert client.cluster.objects == {}
    assert [method for method, _ in client.cluster.requests if method == "POST"] == ["POST"]  # the server was asked


def test_a_difference_is_shown_and_a_changed_cluster_is_patched(client, render):
    text = render(ROOT / "k8s/overlays/gpu")
    assert client("apply", "-f", "-", text=text).returncode == 0
    same = client("diff", "-f", "-", text=text)
    assert (same.returncode, same.stdout) == (0, ""), same.stderr
    cluster = ray(load(text))
    cluster["spec"]["workerGroupSpecs"][0]["maxReplicas"] = 16
    changed = client("diff", "-f", "-", text=json.dumps(cluster))
    assert changed.returncode == 1 and "-    maxReplicas: 8" in changed.stdout and "+    maxReplicas: 16" in changed.stdout
    applied = client("apply", "-f", "-", text=json.dumps(cluster))
    assert applied.stdout == "raycluster.ray.io/samestep configured\n", applied.stderr
    (kept,) = [o for place, o in client.cluster.objects.items() if place.kind == "RayCluster"]
    assert kept["spec"] == cluster["spec"]


def test_a_run_is_deleted_alone(client, render):
    text = render(ROOT / "k8s/runs/local")
    assert client("apply", "-f", "-", text=text).returncode == 0
    before = len(client.cluster.objects)
    done = client("delete", "rayjob", "digits-vae", "-n", "samestep", "--wait=false")
    assert done.returncode == 0, done.stderr
    assert client.kept("RayJob") == [] and len(client.cluster.objects) == before - 1
