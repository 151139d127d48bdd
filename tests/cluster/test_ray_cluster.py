"""Which cluster a run joins, and whether its workers fit, told without Ray."""

import os
import socket

import pytest

from service.cluster import ray_cluster
from service.errors import ClusterTooSmall
from service.run import Run


@pytest.fixture
def ray_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray"


def test_nothing_running_means_a_cluster_of_one_s_own(ray_folder):
    assert ray_cluster.found_address() is None


def test_the_named_cluster_is_joined(ray_folder, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert ray_cluster.found_address() == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert ray_cluster.found_address() is None


def test_a_head_that_answers_is_joined_and_one_that_is_gone_is_not(ray_folder):
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        (ray_folder / "ray_current_cluster").write_text(address)
        assert ray_cluster.found_address() == address
    assert ray_cluster.found_address() is None
    (ray_folder / "ray_current_cluster").write_text("no address")
    assert ray_cluster.found_address() is None


def test_workers_that_do_not_fit_this_machine_are_told_what_is_there(ray_folder):
    there = os.cpu_count()
    with pytest.raises(ClusterTooSmall, match=rf"workers={there + 1}.* needs {there + 1} CPUs; this machine has {there} and"):
        ray_cluster.check_machine(Run("a", workers=there + 1))
    with pytest.raises(ClusterTooSmall, match=rf"threads_per_worker=2\) needs {2 * there} CPUs"):
        ray_cluster.check_machine(Run("a", workers=there, threads_per_worker=2))
    ray_cluster.check_machine(Run("a", workers=there))
