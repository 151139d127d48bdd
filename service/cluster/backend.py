"""Tells Ray Train's workers who they are, without importing TensorFlow."""

import dataclasses
import json
import os
import socket
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from service.cluster import termination, tpu


@dataclasses.dataclass
class WorkerAddresses(BackendConfig):
    """Gives each worker TF_CONFIG: all workers' addresses, in order, and its own place.

    Ray's TensorflowTrainer would import TensorFlow in the driver and the controller, and
    set TF_USE_LEGACY_KERAS, which is another Keras.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """The class whose `on_start` Ray calls when the workers' processes are up."""
        return _Addresses


class _Addresses(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        addresses = worker_group.execute(_free_address)
        ray.get([worker_group.execute_single_async(i, _introduce, addresses, i) for i in range(len(worker_group))])


@dataclasses.dataclass
class TpuHosts(BackendConfig):
    """Gives each host of a TPU slice the addresses of all, in the order of TPU_WORKER_ID."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The class whose `on_start` Ray calls when the workers' processes are up."""
        return _TpuAddresses


class _TpuAddresses(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        found = worker_group.execute(_tpu_host)
        order = tpu.in_order(found) if len(found) > 1 else [0]
        addresses = [found[place][1] for place in order]
        ray.get([worker_group.execute_single_async(w, _introduce_host, addresses, i) for i, w in enumerate(order)])


def _tpu_host() -> tuple[str | None, str]:
    return os.environ.get("TPU_WORKER_ID"), _free_address()


def _introduce_host(addresses: list[str], host: int) -> None:
    termination.hear()
    tpu.introduce(addresses, host)


def _free_address() -> str:
    # Free now; TensorFlow listens there a few seconds later. Should another process take it in
    # between, the workers fail to connect and are started again.
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def _introduce(addresses: list[str], index: int) -> None:
    termination.hear()  # Ray calls this on the main thread, the only one that may
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
