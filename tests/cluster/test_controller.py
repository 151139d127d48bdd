"""What Ray Train's controller leaves when it dies, and how many workers an elastic run counts on."""

import os
import socket
from types import SimpleNamespace
from unittest import mock

import pytest
import ray
import tensorflow as tf
from ray.train import ScalingConfig
from ray.util import placement_group_table
from ray.util.placement_group import placement_group

from service import trainer
from service.cluster import controller, elastic
from service.cluster import relay as relays
from service.errors import PeerLost
from service.run import Run
from tests.processes import free_ports


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=3, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Reserver:
    """Reserves one CPU, as a controller does for its workers."""

    def reserve(self, name: str, lifetime: str | None) -> None:
        ray.get(placement_group([{"CPU": 1}], name=name, lifetime=lifetime).ready())

    def die(self) -> None:
        os._exit(1)


@pytest.mark.ray
def test_only_what_the_dead_had_reserved_is_free_again(cluster):
    living, dead = Reserver.remote(), Reserver.remote()
    ray.get([living.reserve.remote("living", None), dead.reserve.remote("dead", None), dead.reserve.remote("kept", "detached")])
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(dead.die.remote())
    controller._free_machines()
    states = {group["name"]: group["state"] for group in placement_group_table().values()}
    assert states == {"living": "CREATED", "dead": "REMOVED", "kept": "CREATED"}


def test_an_elastic_run_counts_on_no_machine_that_is_gone_or_about_to_go(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as raylet:
        there = {"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": raylet.getsockname()[1], "Alive": True}
        silent = {**there, "NodeManagerPort": free_ports(1)[0]}  # of which Ray does not know yet that it is gone
        gone = {**there, "Alive": False}
        nodes = {"here": there, "leaving": there, "silent": silent, "gone": gone}
        monkeypatch.setattr(elastic.ray, "nodes", lambda: [{"NodeID": name, **node} for name, node in nodes.items()])
        monkeypatch.setattr(elastic.state, "get_draining_nodes", lambda: {"leaving": 0})
        policy = elastic.OnMachinesThatStay(ScalingConfig(num_workers=(1, 8), resources_per_worker={"CPU": 1}))
        # Two CPUs of each are reserved, and those of one machine are still there tomorrow.
        assert policy._count_possible_workers({name: {"CPU": 2.0} for name in nodes}) == 2


@pytest.mark.parametrize(("possible", "size"), [(1, None), (2, None), (3, 3)])
def test_a_running_group_grows_and_never_shrinks_for_what_has_lost_a_worker_cannot_commit(monkeypatch, possible, size):
    config = ScalingConfig(num_workers=(1, 3), resources_per_worker={"CPU": 1}, elastic_resize_monitor_interval_s=0)
    policy = elastic.OnMachinesThatStay(config)
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(policy, "_get_reserved_resources", lambda: {"any": {"CPU": 3.0}})
    monkeypatch.setattr(policy, "_count_possible_workers", lambda reserved: possible)
    two = SimpleNamespace(start_time=0.0, num_workers=2)
    decision = policy.make_decision_for_running_worker_group(two, worker_group_status=None)
    assert getattr(decision, "num_workers", None) == size


@pytest.mark.ray
def test_a_lost_peer_needs_no_tensorflow_in_the_controller_which_then_waits_for_no_commit(cluster, monkeypatch):
    lost = tf.errors.UnavailableError(None, None, "Collective ops is aborted")
    monkeypatch.setattr("service.worker.perform", mock.Mock(side_effect=lost))
    monkeypatch.setattr("service.kept.Kept", mock.MagicMock())
    monkeypatch.setattr("ray.train.get_context", lambda: SimpleNamespace(get_world_rank=lambda: 1))
    relay = relays.started()
    config = {"job": print, "run": Run("a").to_dict(), "options": {}, "store": None, "relay": relay, "is_terminal": False}
    with pytest.raises(PeerLost, match="UnavailableError: Collective ops is aborted"):
        trainer._work(config)
    assert ray.get(relay.moved.remote(60.0))
