"""The cluster as Terraform plans it: each variant, each wrong choice, against google's own schema."""

import pathlib
import re
import shutil

import pytest

from tests.infra.conftest import ROOT, messages

HERE = ROOT / "infra/terraform"
RIGHT = {"project_id": '"my-project-1"', "zone": '"us-east5-b"'}
# What is given, and the words that say what to change.
WRONG = {
    "a_project_s_number": ({"project_id": '"123456789012"'}, "not its name or number. `gcloud projects list` shows it"),
    "a_region_for_a_zone": ({"zone": '"us-east5"'}, "such as us-east5-b; a region is a zone without its last letter"),
    "a_name_too_long_for_its_accounts": ({"name": '"samestep-production"'}, "at most 17 lower-case letters"),
    "a_bucket_with_its_scheme": ({"bucket_name": '"gs://runs"'}, "without gs:// and without a folder"),
    "a_tag_that_moves": ({"image_tag": '"latest"'}, "expected a tag that names one build, such as 0.1.0 or a commit"),
    "an_unknown_channel": ({"release_channel": '"WEEKLY"'}, "expected RAPID, REGULAR or STABLE"),
    "a_gpu_machine_for_heads": ({"cpu_machine_type": '"g2-standard-8"'}, "GPUs go into gpu_machine_type"),
    "too_small_a_head": ({"cpu_machine_type": '"n2-standard-2"'}, "Choose 4 CPUs or more, such as n2-standard-8"),
    "no_node_for_heads": ({"cpu_max_nodes": "0"}, "1 or more: heads and TensorBoard run there"),
    "half_a_node": ({"cpu_max_nodes": "1.5"}, "expected a whole number, 1 or more"),
    "an_unknown_gpu_machine": (
        {"gpu_machine_type": '"n1-standard-8"', "gpu_max_nodes": "1"},
        "expected one of a2-highgpu-1g, a2-highgpu-2g",
    ),
    "gpu_nodes_of_no_type": ({"gpu_max_nodes": "4"}, "gpu_max_nodes = 4 needs gpu_machine_type, such as g2-standard-8"),
    "spot_nodes_of_no_type": ({"gpu_max_spot_nodes": "4"}, "gpu_max_spot_nodes = 4 needs gpu_machine_type"),
    "gpus_without_nodes": (
        {"gpu_machine_type": '"g2-standard-8"'},
        "no node may have it: set gpu_max_nodes, gpu_max_spot_nodes or both",
    ),
    "fewer_nodes_than_none": ({"gpu_max_nodes": "-1"}, "gpu_max_nodes = -1: expected a whole number, 0 or more"),
    "spot_nodes_from_a_reservation": (
        {"gpu_machine_type": '"g2-standard-8"', "gpu_max_spot_nodes": "1", "gpu_reservation": '"mine"'},
        "gpu_reservation is used by nodes that are not spot: set gpu_max_nodes",
    ),
    "an_unknown_tpu_machine": (
        {"tpu_machine_type": '"ct6e-standard-2t"', "tpu_topology": '"2x2"'},
        "expected one of ct4p-hightpu-4t, ct5lp-hightpu-4t",
    ),
    "tpus_without_a_topology": ({"tpu_machine_type": '"ct6e-standard-4t"'}, "such as ct6e-standard-4t and 4x4: set both"),
    "a_topology_without_tpus": (
        {"tpu_topology": '"4x4"'},
        "go together, such as ct6e-standard-4t and 4x4: set both or neither",
    ),
    "a_flat_slice_of_cubes": (
        {"tpu_machine_type": '"ct5p-hightpu-4t"', "tpu_topology": '"4x4"'},
        '"4x4" does not exist on ct5p-hightpu-4t: choose 2x2x1, 2x2x2, 2x2x4, 2x4x4 or AxBxC of multiples of 4',
    ),
    "a_slice_that_no_hosts_make_up": (
        {"tpu_machine_type": '"ct6e-standard-4t"', "tpu_topology": '"3x4"'},
        "choose 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16; or another tpu_machine_type",
    ),
    "several_hosts_of_a_kind_that_stands_alone": (
        {"tpu_machine_type": '"ct6e-standard-8t"', "tpu_topology": '"4x4"'},
        '"4x4" does not exist on ct6e-standard-8t: choose 2x4;',
    ),
    "a_cube_s_sides_the_wrong_way_round": (
        {"tpu_machine_type": '"tpu7x-standard-4t"', "tpu_topology": '"8x4x4"'},
        "AxBxC of multiples of 4 with A <= B <= C, such as 4x4x8",
    ),
    "a_cube_of_other_multiples": (
        {"tpu_machine_type": '"tpu7x-standard-4t"', "tpu_topology": '"4x4x6"'},
        "AxBxC of multiples of 4 with A <= B <= C",
    ),
    "no_slice": (
        {"tpu_machine_type": '"ct6e-standard-4t"', "tpu_topology": '"4x4"', "tpu_slices": "0"},
        "tpu_slices = 0: expected a whole number, 1 or more. For none, leave tpu_machine_type out",
    ),
    "spot_hosts_from_a_reservation": (
        {"tpu_machine_type": '"ct6e-standard-4t"', "tpu_topology": '"4x4"', "tpu_spot": "true", "tpu_reservation": '"mine"'},
        "a spot node comes from no reservation. Leave one of the two out",
    ),
}
# One change each that the tests in infra/terraform/tests must notice: the file, what it says, what it says then.
MUTANTS = [
    ("pools.tf", "spot         = false", "spot         = true"),
    ("pools.tf", "min_nodes    = 1", "min_nodes    = 0"),
    ("pools.tf", "    max_node_count  =", "    total_max_node_count ="),
    ("pools.tf", "[var.zone]", "[var.zone, var.zone]"),
    ("pools.tf", '"COMPACT" : ""', '"COMPACT" : "COMPACT"'),
    ("pools.tf", "each.value.spot ? 120 : null", "30"),
    ("pools.tf", '"GKE_METADATA"', '"GCE_METADATA"'),
    ("pools.tf", "for_each = each.value.spot ? [", "for_each = false ? ["),
    ("pools.tf", "each.value.min_nodes\n\n", "1\n\n"),
    ("gpu.tf", 'name == "gpu-spot" ? null : var.gpu_reservation', "var.gpu_reservation"),
    ("gpu.tf", '"nvidia-l4", count = 2', '"nvidia-l4", count = 1'),
    ("tpu.tf", "local.tpu_is_multi ? local.tpu_hosts : var.tpu_slices", "var.tpu_slices"),
    ("tpu.tf", 'local.tpu_is_multi && var.tpu_machine_type == "tpu7x-standard-4t"', "local.tpu_is_multi"),
    ("tpu.tf", "range(var.tpu_slices)", "range(1)"),
    ("cluster.tf", "      enabled = false\n", "      enabled = true\n"),
    ("cluster.tf", "enable_private_nodes = true", "enable_private_nodes = false"),
    ("cluster.tf", '"ADVANCED_DATAPATH"', '"LEGACY_DATAPATH"'),
    ("bucket.tf", '["scratch/"]', '["runs/"]'),
    ("bucket.tf", '"enforced"', '"inherited"'),
    ("bucket.tf", "retention_duration_seconds = 0", "retention_duration_seconds = 604800"),
    ("identities.tf", '"roles/storage.objectViewer"', '"roles/storage.objectUser"'),
    ("identities.tf", "local.objects}/runs/", "local.objects}/"),
    ("identities.tf", '"roles/storage.legacyBucketReader"', '"roles/storage.admin"'),
    ("identities.tf", "samestep-${each.key}]", "default]"),
    ("registry.tf", "immutable_tags = true", "immutable_tags = false"),
    ("outputs.tf", "tostring(local.tpu_hosts)", "tostring(var.tpu_slices)"),
]  # fmt: skip


def variant(folder, name, variables):
    """Writes a test file that plans the cluster with such variables."""
    given = "".join(f"  {key} = {value}\n" for key, value in {**RIGHT, **variables}.items())
    text = f'mock_provider "google" {{}}\nvariables {{\n{given}}}\nrun "plan" {{\n  command = plan\n}}\n'
    (folder / "tests" / f"{name}.tftest.hcl").write_text(text)


def copy(folder):
    """Copies the configuration without its tests."""
    folder.mkdir()
    for path in HERE.glob("*.tf"):
        shutil.copy(path, folder)
    (folder / "tests").mkdir()
    return folder


@pytest.fixture(scope="module")
def refusals(terraform, tmp_path_factory):
    """What Terraform says to each wrong choice, and to one that is right, by their names."""
    folder = copy(tmp_path_factory.mktemp("refusals") / "terraform")
    for name, (variables, _) in WRONG.items():
        variant(folder, name, variables)
    variant(folder, "right", {})
    said = {name: [] for name in [*WRONG, "right"]}
    for line in messages(terraform("test", "-json", folder=folder)):
        if "diagnostic" in line:
            said[pathlib.Path(line["@testfile"]).name.removesuffix(".tftest.hcl")].append(line["diagnostic"]["detail"])
    return said


def test_files_are_formatted(terraform):
    assert terraform("fmt", "-check", "-diff", "-recursive").stdout == ""


def test_the_configuration_fits_the_provider_s_schema(terraform):
    finished = terraform("validate", "-no-color")
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("    spot            = each", "    spots = each", 'named "spots" is not expected here. Did you mean "spot"?'),
        ("max_node_count  = each.value.max_nodes", 'max_node_count  = ["4"]', "number required"),
        ("gpu_driver_version =", "driver =", 'The argument "gpu_driver_version" is required'),
        ("  management {", "  management {\n  }\n  management {", 'No more than 1 "management" blocks are allowed'),
    ],
    ids=["a_typo", "a_wrong_type", "a_missing_argument", "a_block_too_many"],
)  # fmt: skip
def test_the_schema_has_teeth(terraform, tmp_path, right, wrong, said):
    folder = copy(tmp_path / "terraform")
    text = (folder / "pools.tf").read_text()
    assert text.count(right) == 1
    (folder / "pools.tf").write_text(text.replace(right, wrong))
    finished = terraform("validate", "-json", folder=folder)
    assert finished.returncode == 1 and said in finished.stdout.replace('\\"', '"')


def test_every_variant_is_planned_as_its_rules_say(terraform):
    finished = terraform("test", "-no-color")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    written = sum(len(re.findall(r'^run "', path.read_text(), re.MULTILINE)) for path in (HERE / "tests").iterdir())
    assert f"Success! {written} passed, 0 failed." in finished.stdout


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_choice_is_refused_with_what_to_change(refusals, name):
    assert len(refusals[name]) == 1, refusals[name]
    assert WRONG[name][1] in " ".join(refusals[name][0].split())


def test_a_right_choice_is_not_refused(refusals):
    assert refusals["right"] == []


@pytest.mark.soak
@pytest.mark.parametrize(("file", "right", "wrong"), MUTANTS, ids=[f"{m[0]}-{n}" for n, m in enumerate(MUTANTS)])
def test_the_tests_notice_a_changed_rule(terraform, tmp_path, file, right, wrong):
    folder = copy(tmp_path / "terraform")
    shutil.copytree(HERE / "tests", folder / "tests", dirs_exist_ok=True)
    text = (folder / file).read_text()
    assert right in text
    (folder / file).write_text(text.replace(right, wrong))
    assert terraform("test", "-no-color", folder=folder).returncode == 1
