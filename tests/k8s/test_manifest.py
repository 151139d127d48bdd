"""python -m service manifest: one run's names, workers and command in an overlay; what cannot run is refused."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from service.kubernetes import rules, security
from service.kubernetes.documents import pods
from tests.k8s import schemas
from tests.k8s.conftest import NOW, ROOT
from tests.k8s.mutants import group, of, pod, ray
from tests.k8s.policies import surprises

JOB = "tests.k8s.tiny_job"


def run(ask, *words, overlay="local", name="vae-1", workers="2", options=()):
    return ask(JOB, "--overlay", overlay, "--name", name, "--workers", workers, *words, "--", *options)


def refused(ask, *words, **given):
    code, documents, complaint = run(ask, *words, **given)
    assert (code, documents) == (2, []), complaint
    return complaint


def test_the_command_is_the_job_s_own_with_the_run_s_place_and_devices(ask):
    code, documents, complaint = run(ask, overlay="gpu", workers="8", options=("--epochs", "5", "--note", "two words"))
    assert code == 0, complaint
    words = shlex.split(ray(documents)["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", JOB]
    assert words[3:9] == ["--workers", "8", "--accelerator", "gpu", "--storage", "gs://bucket.invalid/runs"]
    assert words[9:] == ["--name", "vae-1", "--epochs", "5", "--note", "two words"]


def test_the_run_keeps_its_name_and_each_manifest_s_rayjob_has_one_of_its_own(ask):
    names = []
    for seconds in (NOW, NOW + 1):
        _, documents, _ = ask(JOB, "--overlay", "local", "--name", "vae-1", seconds=seconds)
        job = ray(documents)
        names.append(job["metadata"]["name"])
        labels = [job["metadata"]["labels"], *(pod.template["metadata"]["labels"] for pod in pods(job))]
        assert [label["samestep/run"] for label in labels] == ["vae-1"] * 4
        assert "--name vae-1" in job["spec"]["entrypoint"]
    # The seconds since 1970 in base 36, so that names are in the order of time.
    assert [int(name.removeprefix("vae-1-"), 36) for name in names] == [NOW, NOW + 1]


@pytest.mark.parametrize("overlay", ["local", "gpu", "tpu", "spot", "kueue"])
def test_a_manifest_is_as_valid_and_closed_as_its_overlay(ask, overlay):
    words = ("--env", "MODE=fast", "--secret-env", "HF_TOKEN=hugging-face:token")
    # A slice of 2x2 is one host of four chips.
    workers, devices = ("1", "4") if overlay == "tpu" else ("4", "1")
    code, documents, complaint = run(ask, *words, overlay=overlay, workers=workers, options=("--devices-per-worker", devices))
    assert code == 0, complaint
    crds = schemas.crd_folders()
    known = schemas.ray_schemas(crds[0]) if crds else schemas.UNKNOWN_RAY
    assert [line for document in documents for line in schemas.problems(document, known)] == []
    assert rules.problems(documents) + security.problems(documents) + surprises(documents) == []


@pytest.mark.parametrize(
    ("overlay", "workers", "options", "replicas"),
    [
        ("local", "3", "", (3, 3)),  # a pod of 1 CPU, a thread a worker
        ("gpu", "8", "", (8, 8)),  # a pod of 1 GPU
        ("gpu", "2-5", "", (2, 5)),
        ("tpu", "1", "", (1, 1)),  # a slice of 2x2, which is one host of four chips
        ("tpu", "4", "--topology 4x4", (1, 1)),  # a slice of four hosts
    ],
)
def test_there_are_as_many_pods_as_the_workers_fill(ask, overlay, workers, options, replicas):
    code, documents, complaint = run(ask, overlay=overlay, workers=workers, options=options.split())
    assert code == 0, complaint
    found = group(documents)
    assert (found["minReplicas"], found["maxReplicas"], found["replicas"]) == (*replicas, replicas[1])


def test_several_workers_share_a_pod_that_has_room(ask, tmp_path, monkeypatch):
    write(tmp_path, monkeypatch, "components/local", 'worker {cpu: "1"', 'worker {cpu: "4"')
    # 4 CPUs hold two workers of two threads, so 5 workers need three pods.
    _, documents, _ = run(ask, workers="5", options=("--threads-per-worker", "2"))
    assert group(documents)["replicas"] == 3


def test_a_slice_of_several_hosts_has_a_pod_for_each(ask):
    _, documents, _ = run(ask, overlay="tpu", workers="4", options=("--topology", "4x4"))
    # 4 x 4 chips, 4 on a machine: 4 hosts are one slice.
    assert (group(documents)["numOfHosts"], group(documents)["replicas"]) == (4, 1)
    assert pod(documents, "worker").spec["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert ray(documents)["spec"]["entrypoint"].endswith("--topology 2x2 --devices-per-worker 4 --topology 4x4")


def test_the_job_s_environment_reaches_head_and_workers_and_a_secret_only_by_its_name(ask):
    _, documents, _ = run(ask, "--env", "MODE=a=b", "--secret-env", "HF_TOKEN=hugging-face:token")
    by_role = {p.role: p.spec["containers"][0].get("env", [])[-2:] for p in pods(ray(documents))}
    given = [
        {"name": "MODE", "value": "a=b"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hugging-face", "key": "token"}}},
    ]
    assert by_role == {"head": given, "worker": given, "submitter": []}


def test_storage_of_one_s_own_takes_the_place_of_the_overlay_s(ask):
    _, documents, complaint = run(ask, "--storage", "gs://mine/runs", overlay="gpu")
    assert "--storage gs://mine/runs " in ray(documents)["spec"]["entrypoint"]
    assert "k8s/settings.env holds placeholders" in complaint  # the images' registry is one too


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Vae_1", "for example, vae-1."),
        ("1-vae", "for example, vae."),
        ("vae-", "for example, vae."),
        ("v" * 41, f"for example, {'v' * 40}."),
        ("___", "for example, run-1."),
    ],
)
def test_a_name_that_kubernetes_refuses_is_refused_with_one_that_it_takes(ask, name, said):
    assert said in refused(ask, name=name)


def test_the_longest_name_makes_a_rayjob_of_47_characters(ask):
    _, documents, _ = run(ask, name="v" * 40)
    assert len(ray(documents)["metadata"]["name"]) == 47


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        ((), {"overlay": "gpuu"}, 'There is no overlay "gpuu" in k8s/runs. Did you mean "gpu"?'),
        ((), {"options": ("--epoch", "5")}, f'python -m {JOB}: there is no option "--epoch". Did you mean "--epochs"?'),
        ((), {"options": ("--epochs", "five")}, "expected a whole number"),
        ((), {"options": ("--name", "other")}, "Give --name before the --."),
        ((), {"options": ("--workers", "3")}, "Give --workers before the --."),
        ((), {"options": ("--storage", "x")}, "Give --storage before the --."),
        ((), {"options": ("--accelerator", "gpu")}, "Choose another --overlay."),
        ((), {"options": ("--fresh",)}, "Give a new --name instead."),
        ((), {"workers": "0"}, "a RayJob needs 1 or more"),
        ((), {"workers": "many"}, 'given "many"'),
        ((), {"options": ("--threads-per-worker", "2")}, "No worker fits in a pod"),
        ((), {"overlay": "gpu", "options": ("--devices-per-worker", "2")}, "No worker fits in a pod"),
        ((), {"overlay": "tpu", "workers": "3"}, "a slice of 2x2 has 4 chips, and 3 hosts of 4 have 12"),
        ((), {"overlay": "tpu", "workers": "1-2"}, "neither grows nor shrinks"),
        ((), {"overlay": "tpu", "options": ("--topology", "2by2")}, "expected a slice's shape"),
        (
            *((), {"overlay": "tpu", "workers": "1", "options": ("--topology", "3x3", "--devices-per-worker", "9")}),
            "have 4 chips each",
        ),
        (("--env", "MODE"), {}, "expected NAME=VALUE"),
        (("--env", "HF_TOKEN=x"), {}, "--secret-env HF_TOKEN=NAME:KEY"),
        (("--secret-env", "HF_TOKEN=secret"), {}, "expected NAME=SECRET:KEY"),
        (("--env", "RAY_USAGE_STATS_ENABLED=1"), {}, "set by k8s/base already"),
        (("--env", "A=1", "--env", "A=2"), {}, "A is given twice"),
        (("--nme", "x"), {}, 'there is no option "--nme". Did you mean "--name"?'),
    ],
)
def test_what_cannot_run_is_refused_with_what_to_change(ask, words, given, said):
    assert said in refused(ask, *words, **given)


def test_a_secret_s_value_is_never_repeated(ask):
    for word in ("--env", "--secret-env"):
        assert "hunter2" not in refused(ask, word, "DB_PASSWORD=hunter2 or so")


def test_names_that_only_sound_like_secrets_are_taken(ask):
    code, _, complaint = run(ask, "--env", "TOKENIZERS_PARALLELISM=false", "--env", "MONKEY=1")
    assert code == 0, complaint


def test_without_kubectl_and_kustomize_it_says_what_to_install(ask, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, documents, complaint = run(ask)
    assert (code, documents) == (1, []) and "Neither kubectl nor kustomize is on PATH. Install kubectl" in complaint


def test_kustomize_alone_is_enough(ask, kubectl, monkeypatch, tmp_path):
    (tmp_path / "kustomize").write_text(f'#!/bin/sh\n[ "$1" = build ] && exec "{kubectl}" kustomize "$2"\n')
    (tmp_path / "kustomize").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, documents, complaint = run(ask)
    assert code == 0 and ray(documents), complaint


def test_a_job_that_cannot_be_imported_is_told_apart_from_a_wrong_option(ask):
    code, documents, complaint = ask("jobs.nothing", "--overlay", "local", "--name", "vae-1")
    assert (code, documents) == (1, []) and "No module named jobs.nothing" in complaint


def write(tmp_path: Path, monkeypatch, component: str, old: str, new: str) -> None:
    """Has the command read a copy of k8s/ with one text of a component changed."""
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s", symlinks=True)
    file = tmp_path / "k8s" / component / "kustomization.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)


def test_an_overlay_that_was_edited_wrong_is_refused_before_it_is_applied(ask, tmp_path, monkeypatch):
    write(tmp_path, monkeypatch, "components/gpu", "key: nvidia.com/gpu", "key: nvidia.com/gpus")
    assert "the nodes' taint nvidia.com/gpu is not tolerated" in refused(ask, overlay="gpu")


def test_a_main_job_s_manifest_is_printed_for_kubectl(ask):
    """The documentation's own command, with the real job: TensorFlow is loaded to know its options."""
    (command,) = re.findall(
        r"^python -m service manifest (.*) \| kubectl apply", (ROOT / "docs/kubernetes.md").read_text(), re.M
    )
    code, documents, complaint = ask(*shlex.split(command))
    assert code == 0, complaint
    assert of(documents, "RayJob")["spec"]["entrypoint"].startswith("python -m jobs.digits_vae --workers 8 --accelerator gpu ")
