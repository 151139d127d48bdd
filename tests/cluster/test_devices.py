"""What a run takes of a cluster, and what is refused before anything is reserved."""

import pytest

from service.cluster import devices
from service.errors import ClusterTooSmall, RunInvalid
from service.run import Run


def node(labels=None, **resources):
    return {"Resources": resources, "Labels": labels or {}}


def host(slice_name, worker, topology="2x2x2", kind="TPU-V4"):
    labels = {"ray.io/tpu-slice-name": slice_name, "ray.io/tpu-worker-id": str(worker), "ray.io/tpu-topology": topology}
    return node({**labels, "ray.io/accelerator-type": kind}, CPU=8.0, TPU=4.0)


SLICE = {"accelerator": "tpu", "workers": 2, "devices_per_worker": 4, "topology": "2x2x2"}


@pytest.mark.parametrize(
    ("asked", "placed"),
    [
        ({"workers": 3, "threads_per_worker": 2}, {"num_workers": 3, "resources_per_worker": {"CPU": 2}}),
        ({"workers": (2, 5)}, {"num_workers": (2, 5), "resources_per_worker": {"CPU": 1}}),
        (
            {"accelerator": "gpu", "devices_per_worker": 4},  # one process holds all four
            {"num_workers": 1, "resources_per_worker": {"CPU": 1, "GPU": 4}, "use_gpu": True},
        ),
        (
            {"accelerator": "gpu", "workers": 2, "devices_per_worker": 4},  # 2 x 4 processes of one
            {"num_workers": 8, "resources_per_worker": {"CPU": 1, "GPU": 1}, "use_gpu": True},
        ),
        (
            {"accelerator": "gpu", "workers": (1, 2), "devices_per_worker": 4},
            {"num_workers": (4, 8), "resources_per_worker": {"CPU": 1, "GPU": 1}, "use_gpu": True},
        ),
        (
            {"accelerator": "tpu", "devices_per_worker": 4, "topology": "2x2"},
            {
                "num_workers": 1,
                "resources_per_worker": {"CPU": 1, "TPU": 4},
                "use_tpu": True,
                "label_selector": {"ray.io/tpu-topology": "2x2"},
            },
        ),
        (
            SLICE,
            {
                "num_workers": 2,
                "resources_per_worker": {"CPU": 1, "TPU": 4},
                "use_tpu": True,
                "topology": "2x2x2",
                "accelerator_type": "TPU-V4",
            },
        ),
    ],
)
def test_a_run_becomes_ray_s_resources_and_slices(asked, placed):
    assert devices.scaling(Run("r", **asked), [node(CPU=1.0), host("a", 0), host("a", 1)]) == placed


@pytest.mark.parametrize(
    ("asked", "nodes", "said"),
    [
        ({"workers": 3}, [node(CPU=2.0)], "needs 3 CPUs; the cluster has 2 and cannot grow"),
        ({"accelerator": "gpu"}, [node(CPU=8.0)], "needs 1 GPU; the cluster has 0 and cannot grow"),
        ({"accelerator": "gpu", "workers": 2, "devices_per_worker": 4}, [node(CPU=8.0, GPU=4.0)], "needs 8 GPUs"),
        (  # 4 GPUs in all, and one process needs them all
            {"accelerator": "gpu", "devices_per_worker": 4},
            [node(CPU=8.0, GPU=2.0), node(CPU=8.0, GPU=2.0)],
            "one worker process needs 1 CPU and 4 GPUs on one machine, which the cluster does not have",
        ),
        (SLICE, [node(CPU=8.0)], "needs 8 TPUs; the cluster has 0"),
        (SLICE, [host("a", 0), host("b", 0)], "only parts of one: a (1 of 2 hosts), b (1 of 2 hosts)"),
        (SLICE, [host("a", 0, "2x2x4"), host("a", 1, "2x2x4")], "the cluster has slices of 2x2x4"),
    ],
)
def test_what_the_cluster_can_never_hold_is_refused_with_what_there_is(asked, nodes, said):
    with pytest.raises(ClusterTooSmall) as refusal:
        devices.check(Run("r", **asked), nodes, "the cluster")
    assert said in str(refusal.value)


def test_a_run_that_fits_is_let_through():
    devices.check(Run("r", workers=(2, 9)), [node(CPU=2.0)], "the cluster")  # the least counts
    devices.check(Run("r", **SLICE), [node(CPU=1.0), host("b", 0), host("a", 1), host("a", 0)], "the cluster")


def test_a_kind_of_tpu_that_nothing_tells_is_asked_for():
    with pytest.raises(ClusterTooSmall, match="no slice of 2x2x2 is up"):
        devices.scaling(Run("r", **SLICE), [node(CPU=8.0)])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"devices_per_worker": 2, "workers": 2}, "on CPUs each of several workers drives one device"),
        ({"topology": "2x2"}, 'goes with accelerator="tpu"'),
        ({"accelerator": "tpu", "workers": 2}, 'Give its shape, such as topology="4x4"'),
        ({"accelerator": "tpu", "workers": (1, 2), "topology": "2x2"}, "neither grows nor shrinks"),
        ({"accelerator": "tpu", "topology": "2by2"}, "expected a slice's shape"),
        ({"accelerator": "tpu", "topology": "0x2"}, "expected a slice's shape"),
        # two slices of 16 chips
        ({"accelerator": "tpu", "workers": 8, "devices_per_worker": 4, "topology": "4x4"}, "has 16 chips, and 8 hosts of 4"),
    ],
)
def test_devices_that_make_no_sense_are_refused_when_the_run_is_made(asked, said):
    with pytest.raises(RunInvalid) as refusal:
        Run("r", **asked)
    assert said in str(refusal.value)


def test_a_machine_s_gpus_are_those_that_its_processes_may_see(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert devices.on_this_machine("gpu") == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.this_machine("gpu")["Resources"]["GPU"] == 0


def test_a_machine_s_devices_are_the_files_of_their_drivers(monkeypatch):
    files = {"/dev": ["nvidia0", "nvidia1", "nvidiactl", "null"], "/dev/vfio": ["0", "1", "2", "3", "vfio"]}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices.os, "listdir", lambda folder: files[folder])
    assert (devices.on_this_machine("gpu"), devices.on_this_machine("tpu")) == (2, 4)
