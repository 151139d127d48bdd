"""Every overlay, as the real kubectl renders it: valid, closed, whole; and what is wrong with a mutant is found."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest

from service.kubernetes import rules, security
from service.kubernetes.documents import limits, pods, ray_cluster
from tests.k8s import schemas
from tests.k8s.conftest import RENDERED, ROOT, load
from tests.k8s.mutants import MUTANTS, group, of, pod, ray
from tests.k8s.policies import surprises


def complaints(documents: list[dict], ray: schemas.Schemas) -> list[str]:
    """Returns what the first check that has something to say says against the documents; the cheap ones come first."""
    found = rules.problems(documents) + security.problems(documents) or surprises(documents)
    return found or [line for document in documents for line in schemas.problems(document, ray)]


def test_there_is_a_cluster_and_a_run_for_each_kind_of_machine():
    names = {"local", "gpu", "tpu", "spot", "kueue"}
    assert {(path.parent.name, path.name) for path in RENDERED} == {
        (way, name) for way in ("overlays", "runs") for name in names
    }


def test_no_rule_is_broken(documents):
    assert rules.problems(documents) + security.problems(documents) == []


def test_every_document_keeps_to_its_schema(documents):
    found = [line for document in documents if not ray_cluster(document) for line in schemas.problems(document, {})]
    assert found == []


@pytest.mark.parametrize("at", [0, -1], ids=["oldest CRDs", "newest CRDs"])
def test_ray_s_kinds_keep_to_kuberay_s_schema_and_their_pods_to_kubernetes(documents, at):
    known = schemas.ray_schemas(schemas.needed_crds()[at])
    assert [line for document in documents if ray_cluster(document) for line in schemas.problems(document, known)] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_is_caught(mutant, render):
    crds = schemas.crd_folders()
    if mutant.by_crd_alone:
        schemas.needed_crds()
    known = schemas.ray_schemas(crds[0]) if crds else schemas.UNKNOWN_RAY
    original = load(render(ROOT / "k8s" / mutant.where))
    documents = copy.deepcopy(original)
    mutant.change(documents)
    assert documents != original, "the mutant is the original"
    assert complaints(documents, known) != []


def test_each_mutant_has_a_name_of_its_own():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30


def test_a_run_s_pods_are_the_long_lived_cluster_s(render):
    """The RayJob is made of the RayCluster's pods: only the labels, the scaling and the API token part them."""
    for name in ("local", "gpu", "tpu", "spot"):
        cluster, run = (load(render(ROOT / "k8s" / way / name)) for way in ("overlays", "runs"))
        for role in ("head", "worker"):
            here, there = pod(cluster, role), pod(run, role)
            for spec in (here.spec, there.spec):
                spec.pop("automountServiceAccountToken")
            assert here.spec == there.spec
        assert [document["kind"] for document in run if document["kind"] == "RayCluster"] == []


@pytest.mark.parametrize("name", ["local", "gpu", "tpu", "spot", "kueue"])
def test_only_the_long_lived_cluster_scales_and_asks_the_kubernetes_api(render, name):
    run = ray_cluster(ray(load(render(ROOT / "k8s" / "runs" / name))))
    assert "enableInTreeAutoscaling" not in run and "autoscalerOptions" not in run
    assert [p.spec["automountServiceAccountToken"] for p in pods(ray(load(render(ROOT / "k8s/runs" / name))))] == [False] * 3
    if name != "kueue":
        cluster = ray_cluster(ray(load(render(ROOT / "k8s" / "overlays" / name))))
        assert cluster["enableInTreeAutoscaling"] and cluster["workerGroupSpecs"][0]["minReplicas"] == 0
        assert cluster["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is True


@pytest.mark.parametrize(
    ("name", "image", "resources", "tolerated"),
    [
        ("local", "samestep-cpu", set(), set()),
        ("gpu", "samestep-gpu", {"nvidia.com/gpu"}, {"nvidia.com/gpu"}),
        ("spot", "samestep-gpu", {"nvidia.com/gpu"}, {"nvidia.com/gpu", "cloud.google.com/gke-spot"}),
        ("tpu", "samestep-tpu", {"google.com/tpu"}, {"google.com/tpu"}),
    ],
)
def test_an_overlay_keeps_the_worker_s_template_and_adds_its_devices(render, name, image, resources, tolerated):
    run = load(render(ROOT / "k8s" / "runs" / name))
    worker = pod(run, "worker")
    (container,) = worker.spec["containers"]
    assert container["image"] == f"registry.invalid/{image}:dev"
    assert limits(container).keys() - {"cpu", "memory", "ephemeral-storage"} == resources
    assert {toleration["key"] for toleration in worker.spec["tolerations"]} == tolerated
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/tmp", "/home/ray"}
    assert pod(run, "head").spec["containers"][0]["image"] == "registry.invalid/samestep-cpu:dev"


def test_the_local_overlay_asks_nothing_of_google(render):
    text = render(ROOT / "k8s" / "runs" / "local")
    assert "iam.gke.io" not in text and "gs://" not in text and "monitoring" not in text
    assert text.count("cloud.google.com") == 1  # the head keeps off spot nodes, which are nowhere here
    assert "--storage /runs" in of(load(text), "RayJob")["spec"]["entrypoint"]


def test_only_tpu_workers_are_root_and_their_namespace_admits_no_more_than_that(render):
    documents = load(render(ROOT / "k8s" / "runs" / "tpu"))
    users = {p.role: p.spec["securityContext"]["runAsUser"] for p in pods(ray(documents))}
    assert users == {"head": 1000, "worker": 0, "submitter": 1000}
    labels = of(documents, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "baseline"


@pytest.fixture
def mine(tmp_path) -> Path:
    """A copy of k8s/ to change."""
    subprocess.run(["cp", "-r", str(ROOT / "k8s"), str(tmp_path / "k8s")], check=True)
    return tmp_path / "k8s"


def test_the_settings_reach_every_place_that_needs_them(mine, render):
    settings = {
        "REGISTRY": "localhost:5000/p/images",
        "IMAGE_TAG": "v7",
        "BUCKET": "ours",
        "TRAINER_IDENTITY": "t@p.iam",
        "TENSORBOARD_IDENTITY": "b@p.iam",
        "TPU_ACCELERATOR": "tpu-v5-lite-podslice",
        "TPU_TOPOLOGY": "4x4",
        "TPU_HOSTS": "4",
        "TPU_CHIPS_PER_HOST": "4",
    }
    # By the name that terraform's output is written to.
    (mine / "settings.env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    documents = load(render(mine / "runs" / "tpu"))
    job = of(documents, "RayJob")
    images = {p.role: p.spec["containers"][0]["image"] for p in [*pods(job), *pods(of(documents, "Deployment"))]}
    assert images == {
        "head": "localhost:5000/p/images/samestep-cpu:v7",
        "worker": "localhost:5000/p/images/samestep-tpu:v7",
        "submitter": "localhost:5000/p/images/samestep-cpu:v7",
        "other": "localhost:5000/p/images/samestep-tensorboard:v7",
    }
    assert "--storage gs://ours/runs" in job["spec"]["entrypoint"]
    assert pods(of(documents, "Deployment"))[0].spec["containers"][0]["args"][0] == "--logdir=gs://ours/runs"
    key = "iam.gke.io/gcp-service-account"
    identities = {d["metadata"]["name"]: d["metadata"]["annotations"][key] for d in documents if d["kind"] == "ServiceAccount"}
    assert identities == {"samestep-trainer": "t@p.iam", "samestep-tensorboard": "b@p.iam"}
    # 4 x 4 chips are 4 hosts of 4: the numbers stay numbers.
    assert (group(documents)["numOfHosts"], limits(pod(documents, "worker").spec["containers"][0])["google.com/tpu"]) == (
        4,
        "4",
    )
    assert rules.problems(documents) + security.problems(documents) == []


def test_an_overlay_that_renames_takes_the_pods_along(mine, render):
    """Kustomize does not know KubeRay's fields: without nameReference the pods would name accounts that are not there."""
    for way, name in (("overlays", "gpu"), ("runs", "local")):
        folder = mine / "runs" / f"mine-{way}"
        folder.mkdir()
        (folder / "kustomization.yaml").write_text(f"namePrefix: mine-\nresources: [../../{way}/{name}]\n")
        documents = load(render(folder))
        accounts = {d["metadata"]["name"] for d in documents if d["kind"] == "ServiceAccount"}
        claims = {d["metadata"]["name"] for d in documents if d["kind"] == "PersistentVolumeClaim"}
        assert accounts == {"mine-samestep-trainer", "mine-samestep-tensorboard"}
        for p in pods(ray(documents)):
            assert p.spec["serviceAccountName"] in accounts
            named = {v["persistentVolumeClaim"]["claimName"] for v in p.spec["volumes"] if "persistentVolumeClaim" in v}
            assert named <= claims and bool(named) == (name == "local" and p.role != "submitter")


def test_the_yaml_is_tidy():
    program = Path(sys.executable).with_name("yamllint")
    done = subprocess.run(
        [program, "--strict", "--config-file", ROOT / "k8s/.yamllint", ROOT / "k8s"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
