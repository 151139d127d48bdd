"""What Terraform says of its cluster is what the overlays ask for."""

import re
import shutil
import textwrap

import pytest

from service.kubernetes import rules, security
from service.manifest import is_unset
from tests.infra.conftest import ROOT
from tests.k8s.conftest import load


def settings():
    """The output k8s_settings, as `terraform test` asserts it: of a cluster with GPUs and TPUs."""
    text = (ROOT / "infra/terraform/tests/closed.tftest.hcl").read_text()
    (lines,) = re.findall(r"k8s_settings == <<-SETTINGS\n(.*?)\n +SETTINGS", text, re.DOTALL)
    return textwrap.dedent(lines) + "\n"


@pytest.mark.parametrize(
    ("overlay", "there"),
    [
        ("gpu", ["nvidia.com/gpu: 4", "cloud.google.com/gke-accelerator: nvidia-l4", "/samestep/samestep-gpu:3f2a9c1"]),
        ("spot", ["nvidia.com/gpu: 4", "cloud.google.com/gke-accelerator: nvidia-l4", "cloud.google.com/gke-spot"]),
        (
            "tpu",
            ["google.com/tpu: 4", "cloud.google.com/gke-tpu-topology: 4x8", "numOfHosts: 8", "/samestep/samestep-tpu:3f2a9c1"],
        ),
    ],
)
def test_an_overlay_asks_for_what_there_is(tmp_path, render, overlay, there):
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s", symlinks=True)
    (tmp_path / "k8s/settings.env").write_text(settings())
    text = render(tmp_path / "k8s/overlays" / overlay)
    assert not is_unset(text)
    documents = load(text)
    assert [*rules.problems(documents), *security.problems(documents)] == []
    plain = text.replace('"', "")
    for line in [*there, "gs://my-project-1-samestep/runs", "iam.gke.io/gcp-service-account: somebody@my-project-1"]:
        assert line in plain, line
