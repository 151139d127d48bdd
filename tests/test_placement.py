"""Ray places a run's workers on GPUs and whole TPU slices; its nodes only say that they have them."""

import json
import os
import tempfile
import uuid
from typing import Any

import pytest
import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

import service
from service.cluster import devices, ray_cluster, relay
from service.cluster.backend import TpuHosts, WorkerAddresses
from service.cluster.controller import Trainer
from service.cluster.moves import CommitFirst
from service.cluster.notice import Signals
from service.errors import ClusterTooSmall, EnvironmentUnfit
from service.run import Run
from tests import ray_jobs
from tests.test_moves import drain

pytestmark = [pytest.mark.ray, pytest.mark.soak, pytest.mark.timeout(300)]

SLICE = Run("r", accelerator="tpu", workers=2, devices_per_worker=4, topology="2x2x2")
GPUS = Run("r", accelerator="gpu", workers=2, devices_per_worker=2)


def host(cluster: Any, name: str, worker: int) -> Any:
    """Adds a host of a slice of two, as GKE's webhook and KubeRay introduce it to Ray."""
    resources = {"TPU": 4, "accelerator_type:TPU-V4": 1, **({"TPU-v4-16-head": 1} if worker == 0 else {})}
    labels = {
        "ray.io/tpu-slice-name": name,
        "ray.io/tpu-worker-id": str(worker),
        "ray.io/tpu-topology": "2x2x2",
        "ray.io/tpu-pod-type": "v4-16",
        "ray.io/accelerator-type": "TPU-V4",
    }
    variables = {
        "TPU_NAME": name,
        "TPU_WORKER_ID": str(worker),
        "TPU_ACCELERATOR_TYPE": "v4-16",
        "TPU_TOPOLOGY": "2x2x2",
        "TPU_WORKER_HOSTNAMES": f"{name}-0,{name}-1",
    }
    return cluster.add_node(num_cpus=1, resources=resources, labels=labels, env_vars=variables)


@pytest.fixture(scope="module")
def cluster():
    """A cluster that says it has two machines of two GPUs and two slices of two TPU hosts, not in the order of their ids."""
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    for name, value in ray_cluster._QUIET.items():
        patch.setenv(name, value)
    patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray believes what it is told only without it
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.gpus = [made.add_node(num_cpus=2, num_gpus=2) for _ in range(2)]
    made.hosts = {(name, worker): host(made, name, worker) for name in ("b", "a") for worker in (1, 0)}
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    yield made
    ray.shutdown()
    made.shutdown()
    patch.undo()


def placed(run: Run, act: Any, backend: Any, between: Any = None) -> list[dict[str, Any]]:
    """Returns what `act(relay)` gives on each worker, in Ray's order, placed as the run's workers are."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    through = relay.started()
    shared = relay.started()  # of its own, for what the workers tell

    def loop(config: dict[str, Any]) -> None:
        rank = ray.train.get_context().get_world_rank()
        ray.get(config["told"].put.remote(json.dumps([rank, act(config["relay"])]) + "\n"))

    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            loop,
            train_loop_config={"relay": through, "told": shared},
            backend_config=backend,
            scaling_config=ScalingConfig(**devices.scaling(run, ray.nodes())),
            run_config=RunConfig(
                name=uuid.uuid4().hex,
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=0),
                callbacks=[CommitFirst(through), *([between] if between else [])],
            ),
            signals=Signals(lambda: None),
        )
        trainer.fit()
    lines = ray.get(shared.take.remote(1.0)).splitlines()
    return [told for _, told in sorted((json.loads(line) for line in lines), key=lambda pair: pair[0])]


def seen(_: Any) -> dict[str, Any]:
    here = ray.get_runtime_context().get_node_id()
    labels = next(node["Labels"] for node in ray.nodes() if node["NodeID"] == here)
    return {
        "node": here,
        "slice": labels.get("ray.io/tpu-slice-name"),
        "host": labels.get("ray.io/tpu-worker-id"),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "workers": json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {}).get("worker"),
        "hosts": json.loads(os.environ.get("SAMESTEP_TPU_HOSTS", "[]")),
        "number": os.environ.get("SAMESTEP_TPU_HOST"),
    }


def test_each_of_several_gpus_has_a_process_and_no_two_share_one(cluster):
    told = placed(GPUS, seen, WorkerAddresses())
    # 2 workers of 2 GPUs: 4 processes, 2 on each machine.
    assert len(told) == 4 and len({(one["node"], one["gpus"]) for one in told}) == 4
    assert {one["gpus"] for one in told} == {"0", "1"}
    assert all(one["workers"] == told[0]["workers"] and len(one["workers"]) == 4 for one in told)


class Drain(WorkerGroupCallback):
    """Announces, once the workers run, that a host of theirs is taken away."""

    def __init__(self, address: str) -> None:
        self.address = address

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        drain(self.address, worker_group.get_workers()[-1].metadata.node_id)


def seen_when_asked(through: Any) -> dict[str, Any]:
    return {"asked": ray.get(through.asked.remote(), timeout=120), **seen(through)}


def test_a_run_has_one_whole_slice_whose_hosts_know_their_order_and_leave_together(cluster):
    told = placed(SLICE, seen_when_asked, TpuHosts(), Drain(cluster.address))
    assert len({one["slice"] for one in told}) == 1
    assert {one["host"] for one in told} == {"0", "1"}
    assert all(one["number"] == one["host"] for one in told)  # TPU_WORKER_ID, whatever Ray's order is
    assert told[0]["hosts"] == told[1]["hosts"] and len(told[0]["hosts"]) == 2
    assert [one["asked"] for one in told] == ["move", "move"]  # one host is taken away


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"accelerator": "gpu", "workers": 3, "devices_per_worker": 2}, "needs 6 GPUs; the cluster has 4 and cannot grow"),
        (
            {"accelerator": "gpu", "devices_per_worker": 4},
            "needs 1 CPU and 4 GPUs on one machine, which the cluster does not have",
        ),
        ({**SLICE.to_dict(), "topology": "2x4"}, "the cluster has slices of 2x2x2"),
    ],
)
def test_devices_that_are_not_there_are_refused_before_anything_is_reserved(cluster, tmp_path, asked, said):
    with pytest.raises(ClusterTooSmall) as refusal:
        service.train(ray_jobs.raises_on_worker_1, Run(**{**asked, "name": "r", "storage": str(tmp_path)}))
    assert said in str(refusal.value)


def test_gpus_that_only_ray_knows_of_are_told_by_the_worker_that_does_not_find_them(cluster, tmp_path):
    with pytest.raises(
        EnvironmentUnfit, match=r"TensorFlow finds 0 GPUs in this process, and 1 were asked for.*samestep\[gpu\]"
    ):
        service.train(ray_jobs.raises_on_worker_1, Run("r", str(tmp_path), accelerator="gpu"))
