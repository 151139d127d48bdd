"""Which cluster a run joins, and whether its workers fit, told without Ray."""

import json
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


def test_an_address_that_another_user_left_is_not_joined(ray_folder, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as head:
        (ray_folder / "ray_current_cluster").write_text(f"127.0.0.1:{head.getsockname()[1]}")
        monkeypatch.setattr(os, "geteuid", lambda: (ray_folder / "ray_current_cluster").stat().st_uid + 1)
        if os.getuid() == 0:
            os.chown(ray_folder / "ray_current_cluster", 12345, -1)
            monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert ray_cluster.found_address() is None


def test_a_first_token_is_its_user_s_alone_and_one_that_is_there_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    ray_cluster._make_token()
    token = tmp_path / ".ray" / "auth_token"
    made = token.read_text()
    assert len(made) == 64 and token.stat().st_mode & 0o077 == 0
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]
    ray_cluster._make_token()
    assert token.read_text() == made


def test_no_token_is_made_where_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "named"))
    ray_cluster._make_token()
    assert [*tmp_path.iterdir()] == []


def test_workers_that_do_not_fit_this_machine_are_told_what_is_there(ray_folder):
    there = os.cpu_count()
    with pytest.raises(ClusterTooSmall, match=rf"workers={there + 1}.* needs {there + 1} CPUs; this machine has {there} and"):
        ray_cluster.check_machine(Run("a", workers=there + 1))
    with pytest.raises(ClusterTooSmall, match=rf"threads_per_worker=2\) needs {2 * there} CPUs"):
        ray_cluster.check_machine(Run("a", workers=there, threads_per_worker=2))
    ray_cluster.check_machine(Run("a", workers=there))


@pytest.mark.parametrize(
    ("kinds", "in_kuberay", "grows"),
    [
        ({"node_" + "0a" * 28: 1}, False, False),  # Ray's monitor names a kind after each node where it only looks
        ({"head": 1, "workers": 0}, False, True),  # kinds of machines that somebody named
        ({}, False, False),
        ({}, True, True),  # the operator makes a new pod for each that is gone
    ],
)
def test_a_cluster_grows_where_somebody_can_add_machines(monkeypatch, kinds, in_kuberay, grows):
    from ray.autoscaler.v2 import utils
    from ray.experimental import internal_kv

    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE", raising=False)
    if in_kuberay:
        monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    monkeypatch.setattr(utils, "is_autoscaler_v2", lambda fetch_from_server: False)
    status = {"autoscaler_report": {"active_nodes": kinds}} if kinds else None
    monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda key: json.dumps(status).encode() if status else None)
    assert ray_cluster._can_grow() is grows
