"""What the images are made of, as far as that can be known without an engine that builds them."""

import contextlib
import fnmatch
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tensorboardX import SummaryWriter

from service.storage.store import Store
from tests.buckets import gs_options
from tests.infra.conftest import ROOT, tool
from tests.infra.guard import Guard, granted
from tests.processes import free_ports
from tests.test_kills import descendants, kill

IMAGES = ROOT / "infra/images"
KINDS = ("cpu", "gpu", "tpu")
# The images are of Linux on x86-64 and Python 3.11.
IMAGE_ENVIRONMENT = {
    **default_environment(),
    "python_version": "3.11",
    "python_full_version": "3.11.0",
    "sys_platform": "linux",
}
# Where TensorFlow for TPUs, a minor version behind, cannot have what the others have.
BEHIND = {"tensorboard"}


def instructions():
    """The Dockerfile's instructions with their continued lines joined."""
    text = re.sub(r"^#.*\n", "", (IMAGES / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def command(stage, name):
    """A stage's HEALTHCHECK, ENTRYPOINT or CMD, as its words."""
    lines = iter(instructions())
    for line in lines:
        if line.endswith(f" AS {stage}"):
            break
    for line in lines:
        if line.startswith("FROM "):
            break
        if line.startswith(f"{name} "):
            return json.loads(line[line.index("[") :])
    raise AssertionError(f"stage {stage} has no {name}")


def pins(path):
    """A lock's versions by name, those of the images' Python."""
    found = {}
    for line in path.read_text().splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(IMAGE_ENVIRONMENT):
                (specifier,) = requirement.specifier
                assert specifier.operator == "=="
                found[canonicalize_name(requirement.name)] = specifier.version
    return found


def test_the_dockerfile_is_clean():
    finished = subprocess.run([tool("hadolint"), IMAGES / "Dockerfile"], capture_output=True, text=True)
    assert (finished.returncode, finished.stdout) == (0, "")


def test_the_linter_has_teeth(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN pip install ray\nCMD ray start\n")
    finished = subprocess.run([tool("hadolint"), tmp_path / "Dockerfile"], capture_output=True, text=True)
    assert finished.returncode == 1
    assert {"DL3006", "DL3013", "DL3025"} <= {*re.findall(r"DL\d+", finished.stdout)}


def test_what_is_copied_is_there_and_nothing_else_can_be():
    sources = [
        word.replace("${KIND}", kind)
        for line in instructions()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
        for kind in (*KINDS, "tensorboard")
    ]
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    let_in = [line.removeprefix("!") for line in rest if line.startswith("!")]
    assert first == "*"
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in), source
    assert {pattern for pattern in let_in if not any(fnmatch.fnmatch(source, pattern) for source in sources)} == set()


def test_no_image_runs_as_root():
    (base,) = [line for line in instructions() if line.startswith("FROM ") and line.endswith(" AS runtime")]
    after = instructions()[instructions().index(base) + 1 :]
    users = [line for line in after if line.startswith("USER ")]
    assert users == ["USER 1000:1000"]
    assert [line for line in after[after.index(users[0]) :] if line.startswith("RUN ")] == []
    finals = [line for line in after if line.startswith("FROM ")]
    assert finals == ["FROM runtime AS tensorboard", "FROM runtime AS worker"]


def test_make_builds_and_pushes_each_image_with_its_lock():
    said = subprocess.run(
        ["make", "-n", "push-images", "REGISTRY=r.dev/p/samestep", "IMAGE_TAG=3f2a9c1"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for kind, target in {**dict.fromkeys(KINDS, "worker"), "tensorboard": "tensorboard"}.items():
        assert f"--build-arg KIND={kind} --target {target} --tag r.dev/p/samestep/samestep-{kind}:3f2a9c1 ." in said
        assert (IMAGES / f"{kind}.lock").exists()


@pytest.mark.parametrize("kind", [*KINDS, "tensorboard"])
def test_an_image_has_the_versions_that_the_tests_have(kind):
    tested, there = pins(ROOT / "requirements.lock"), pins(IMAGES / f"{kind}.lock")
    other = {name for name in there.keys() & tested.keys() if there[name] != tested[name]}
    assert other == (BEHIND if kind == "tpu" else set())


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_has_what_the_package_asks_for(kind):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    there = pins(IMAGES / f"{kind}.lock")
    for requirement in map(Requirement, [*project["dependencies"], *extras[kind], *extras["jobs"]]):
        assert requirement.specifier.contains(there[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("kind", [*KINDS, "tensorboard"])
def test_an_image_has_nothing_that_it_does_not_need(kind):
    there = pins(IMAGES / f"{kind}.lock")
    assert there.keys() & {"pytest", "mypy", "ruff", "moto", "hypothesis", "uv", "tf-keras"} == set()
    flavours = {"cpu": {"tensorflow-cpu"}, "gpu": {"tensorflow"}, "tpu": {"tensorflow-tpu"}, "tensorboard": set()}
    assert there.keys() & {"tensorflow", "tensorflow-cpu", "tensorflow-tpu"} == flavours[kind]
    if kind == "tensorboard":
        assert there.keys() & {"keras", "ray", "scikit-learn", "pandas"} == set()
        assert {"tensorboard", "gcsfs"} <= there.keys()


@pytest.fixture
def here():
    """An environment like the image's, with a short folder for Ray's sockets; ends what was started in it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="image-", dir="/tmp"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PATH"] = f"{pathlib.Path(sys.executable).parent}:{environment['PATH']}"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder, environment, stack


def started(words, folder, environment, stack):
    """Starts a container's command, and ends it with all its processes."""

    def end(process):
        family = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait(10)
        kill(family)

    with open(folder / "output", "wb") as output:
        process = subprocess.Popen(words, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    stack.callback(end, process)
    return process


def is_healthy(check, environment):
    return subprocess.run(check, env=environment, capture_output=True, timeout=30).returncode == 0


def becomes_healthy(check, environment, process, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        if is_healthy(check, environment):
            return True
        time.sleep(0.5)
    return False


@pytest.mark.soak
@pytest.mark.ray
def test_a_worker_image_s_command_starts_a_head_that_its_health_check_finds(here):
    folder, environment, stack = here
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "1"
    port, dashboard, agent, client = map(str, free_ports(4))
    # A container has its ports for itself; this machine may have other heads.
    assert "http://127.0.0.1:52365/" in command("worker", "HEALTHCHECK")[-1]
    check = [word.replace("52365", agent) for word in command("worker", "HEALTHCHECK")]
    words = [*command("worker", "CMD"), "--port", port, "--dashboard-port", dashboard, "--dashboard-agent-listen-port", agent]
    words += ["--ray-client-server-port", client, "--num-cpus", "1", "--temp-dir", str(folder / "ray")]
    assert not is_healthy(check, environment)
    process = started(words, folder, environment, stack)
    assert becomes_healthy(check, environment, process, 90), (folder / "output").read_text()


@pytest.mark.soak
@pytest.mark.ray
def test_a_worker_image_s_command_starts_nothing_without_a_token(here):
    folder, environment, stack = here
    environment |= {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(folder)}
    process = started([*command("worker", "CMD"), "--port=0", "--temp-dir", str(folder / "ray")], folder, environment, stack)
    assert process.wait(60) != 0
    assert "token" in (folder / "output").read_text()


def installed(kind, folder):
    """Makes the image's environment from its lock, as the Dockerfile does."""
    uv = str(pathlib.Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder / kind], check=True)
    words = ["pip", "install", "--quiet", "--no-deps", "--python", folder / kind / "bin/python"]
    subprocess.run([uv, *words, "-r", IMAGES / f"{kind}.lock"], check=True)
    subprocess.run([uv, "pip", "check", "--quiet", "--python", folder / kind / "bin/python"], check=True)
    return folder / kind / "bin"


@pytest.mark.soak
def test_the_tensorboard_image_s_command_serves_a_bucket_without_tensorflow(here, gcs_address):
    folder, environment, stack = here
    path = installed("tensorboard", folder)
    guard = Guard(gcs_address)
    stack.callback(guard.stop)
    with SummaryWriter(str(folder / "written")) as writer:
        writer.add_scalar("loss", 0.5, 1)
    (events,) = (folder / "written").iterdir()
    run = Store("gs://bucket/runs/board", **gs_options(gcs_address))
    run.write(f"logs/train/{events.name}", events.read_bytes())

    guard.roles = granted("tensorboard")
    (port,) = map(str, free_ports(1))
    environment |= {
        "PATH": f"{path}:/usr/bin:/bin",
        "STORAGE_EMULATOR_HOST": guard.address,
        "FSSPEC_GS": json.dumps({"token": "anon", "project": "project"}),
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    entry = [word.replace("6006", port) for word in command("tensorboard", "ENTRYPOINT")]
    check = [str(path / "python"), *[word.replace("6006", port) for word in command("tensorboard", "HEALTHCHECK")][1:]]
    process = started([path / entry[0], *entry[1:], "--logdir=gs://bucket/runs"], folder, environment, stack)
    assert becomes_healthy(check, environment, process, 60), (folder / "output").read_text()
    until = time.monotonic() + 60
    tags = {}
    while not tags and time.monotonic() < until:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/plugin/scalars/tags", timeout=10) as answer:
            tags = json.load(answer)
        time.sleep(0.5)
    assert "loss" in tags["board/logs/train"]
    assert guard.denied == []


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["cpu", "tpu"])
def test_a_worker_image_s_packages_train(here, kind):
    folder, environment, _ = here
    path = installed(kind, folder)
    environment |= {"TPU_SKIP_MDS_QUERY": "1"}  # no TPU here: the library must not wait for a cloud to tell it of one
    words = [
        "-m",
        "jobs.digits_vae",
        "--workers",
        "0",
        "--epochs",
        "1",
        "--seed",
        "3",
        "--storage",
        folder / "runs",
        "--name",
        "a",
    ]
    subprocess.run([path / "python", *words], cwd=ROOT, env=environment, check=True, timeout=300)
    assert (folder / "runs/a/history.csv").read_text().count("\n") == 2


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_gpu_image_s_packages_can_be_installed(tmp_path):
    uv = str(pathlib.Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "gpu"], check=True)
    words = ["pip", "install", "--dry-run", "--no-deps", "--python", tmp_path / "gpu/bin/python", "-r", IMAGES / "gpu.lock"]
    said = subprocess.run([uv, *words], check=True, capture_output=True, text=True).stderr
    assert f"Would install {len(pins(IMAGES / 'gpu.lock'))} packages" in said
