"""The hosts of a TPU slice: one process trains on the chips of all, the others serve it.

TPUStrategy has one client. On a slice of one host that is the process which holds the chips. On
several hosts each runs a TensorFlow server, in the order of TPU_WORKER_ID, and the chief's process
is the client of all of them; it must not load libtpu itself, or its own host's server cannot.
"""

import json
import multiprocessing
import os
from collections.abc import Sequence
from typing import Any

from service.cluster import termination
from service.cluster.notice import Notice
from service.errors import EnvironmentUnfit

_HOSTS, _HOST = "SAMESTEP_TPU_HOSTS", "SAMESTEP_TPU_HOST"
_NO_LIBTPU = "TPU_LOAD_LIBRARY"


def in_order(found: Sequence[tuple[str | None, str]]) -> list[int]:
    """Returns the places of the hosts, given (TPU_WORKER_ID, address) of each, in the order of their ids.

    Ray puts the workers of a slice in no order of its own (ray 2.60).

    Raises:
        EnvironmentUnfit: the ids are not 0 to hosts - 1, so that this is no whole slice.
    """
    ids = [worker_id for worker_id, _ in found]
    if sorted(ids, key=str) != sorted(map(str, range(len(ids)))):
        told = ", ".join(f"{address} has {worker_id or 'none'}" for worker_id, address in found)
        raise EnvironmentUnfit(
            f"TPU_WORKER_ID of the {len(ids)} hosts should be 0 to {len(ids) - 1}, each once: {told}. On Kubernetes the TPU "
            "webhook sets it (docs/kubernetes.md)."
        )
    return sorted(range(len(ids)), key=lambda place: int(ids[place] or 0))


def introduce(addresses: Sequence[str], host: int) -> None:
    """Tells this process, before TensorFlow is imported, the hosts' addresses in order and which one it is."""
    os.environ[_HOSTS], os.environ[_HOST] = json.dumps(list(addresses)), str(host)


def serve_here() -> Any:
    """Starts the server of this host's chips and returns it; it serves for as long as this process lives."""
    import tensorflow as tf

    cluster = tf.train.ClusterSpec({"worker": json.loads(os.environ[_HOSTS])})
    return tf.distribute.Server(cluster, job_name="worker", task_index=int(os.environ[_HOST]), protocol="grpc")


def serve(relay: Any) -> None:
    """Serves the chips of this host until the chief's job is over; a signal to this process is the chief's to answer."""
    import ray

    notice = Notice()
    termination.pass_on(notice, has_peers=False)
    _server = serve_here()  # it serves for as long as somebody holds it
    over = relay.ended.remote()
    while not ray.wait([over], timeout=1.0)[0]:
        if notice.is_given():
            ray.get(relay.ask.remote("move"))


def _serve_apart(ready: Any) -> None:
    os.environ.pop(_NO_LIBTPU, None)
    _server = serve_here()  # it serves for as long as somebody holds it
    ready.set()
    # A chief that is killed must not leave its chips taken.
    multiprocessing.parent_process().join()  # type: ignore[union-attr]  # None in a process that nobody started; this one was


def serve_beside() -> None:
    """Starts the server of the chief's own host in a process of its own, which ends when this one does."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_serve_apart, args=(ready,), daemon=True)
    process.start()
    while not ready.wait(1.0):
        if not process.is_alive():
            raise EnvironmentUnfit(
                f"The TensorFlow server of this TPU host ended with exit code {process.exitcode} before it served; what it "
                "printed says why. `python -m service doctor` on the host tells what TensorFlow finds."
            )


def _joined() -> Any:
    """Joins the servers of all hosts that were introduced, and returns who finds their chips; of one host, its own."""
    import tensorflow as tf

    hosts = json.loads(os.environ.get(_HOSTS) or "[]")
    if len(hosts) < 2:
        return tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
    os.environ[_NO_LIBTPU] = "0"
    serve_beside()
    found = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=",".join(f"grpc://{host}" for host in hosts))
    tf.config.experimental_connect_to_cluster(found)
    return found


def strategy(chips_per_host: int) -> Any:
    """Returns TPUStrategy over all cores of the slice, in this process, its client.

    Raises:
        EnvironmentUnfit: TensorFlow finds no TPU, or fewer chips than were asked for.
    """
    import tensorflow as tf

    hosts = len(json.loads(os.environ.get(_HOSTS) or "[]")) or 1
    fix = "Install samestep[tpu] where the workers run, and see `python -m service doctor` there."
    try:
        found = _joined()
        tf.tpu.experimental.initialize_tpu_system(found)
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError, ValueError) as error:
        raise EnvironmentUnfit(f"TensorFlow finds no TPU: {error}. {fix}") from error
    made = tf.distribute.TPUStrategy(found)
    if made.num_replicas_in_sync < hosts * chips_per_host:
        raise EnvironmentUnfit(
            f"TensorFlow finds {made.num_replicas_in_sync} TPU cores on {hosts} hosts, and {chips_per_host} chips a host were "
            f"asked for. {fix}"
        )
    return made
