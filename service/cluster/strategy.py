"""The tf.distribute strategy a run names, and who drives which device."""

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from service.cluster import loopback, tpu
from service.errors import EnvironmentUnfit

HEARTBEAT_SECONDS = 30  # TensorFlow's own would be 10, as long as a step may take


class PlainStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """Worker processes that each drive one device and hold plain variables.

    TensorFlow's strategy is started as the collective runtime alone. `scope()` does
    nothing, so a model made in it has ordinary variables: predict, save and every
    snapshot are local, and the optimizer sees gradients that are summed already.
    """

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """The place where variables are made; it changes nothing about them."""
        return contextlib.nullcontext(self)

    def run(self, fn: Any, args: Any = (), kwargs: Any = None, options: Any = None) -> Any:
        """Runs `fn` where collectives may be called. Collective: every worker calls this."""
        with super().scope():
            return super().run(fn, args=args, kwargs=kwargs, options=options)


_connected: list[tf.distribute.Strategy] = []  # the collective runtime is one for the process


def worker_count() -> int:
    """Returns how many worker processes TF_CONFIG names; 1 without it."""
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    return len(cluster.get("worker", [])) or 1


def connect(devices: int = 1, timeout_seconds: float | None = None, accelerator: str = "cpu") -> tf.distribute.Strategy:
    """Returns the strategy of the worker processes that TF_CONFIG names; `policies.placing` tells which one, and why.

    Collective: every worker calls this, once, before TensorFlow runs anything else.
    One process with one device needs no other than TensorFlow's default strategy; one with
    several gets MirroredStrategy or TPUStrategy, whose scope holds the variables.

    Args:
        devices: how many devices this process drives.
        timeout_seconds: how long a collective may wait for another worker before it
            fails; None waits for as long as that worker's process lives.
        accelerator: "cpu", "gpu" or "tpu".

    Raises:
        EnvironmentUnfit: TensorFlow does not find the devices.
    """
    if not _connected:
        if accelerator == "tpu":
            _connected.append(tpu.strategy(devices))
            return _connected[0]
        _see_only(accelerator, devices)
        if worker_count() > 1:
            with _patient_heartbeat():
                _connected.append(PlainStrategy(communication_options=_communication(accelerator, timeout_seconds)))
            _keep_to_this_machine()
        elif devices > 1:
            _connected.append(tf.distribute.MirroredStrategy(_local_devices(accelerator, devices)))
        else:
            _connected.append(tf.distribute.get_strategy())
    return _connected[0]


def _communication(accelerator: str, timeout_seconds: float | None) -> Any:
    means = tf.distribute.experimental.CommunicationImplementation
    implementation = means.NCCL if accelerator == "gpu" else means.AUTO
    return tf.distribute.experimental.CommunicationOptions(timeout_seconds=timeout_seconds, implementation=implementation)


def _see_only(accelerator: str, devices: int) -> None:
    """Has TensorFlow use the devices that were asked for, of all that this process could reach."""
    gpus = tf.config.list_physical_devices("GPU")
    if accelerator == "cpu":
        with contextlib.suppress(RuntimeError):  # a notebook, say, that has used TensorFlow before
            tf.config.set_visible_devices([], "GPU")
    elif len(gpus) < devices:
        raise EnvironmentUnfit(
            f"TensorFlow finds {len(gpus)} GPUs in this process, and {devices} were asked for. Install samestep[gpu] where the "
            "workers run, and see `nvidia-smi` and `python -m service doctor` there."
        )


@contextlib.contextmanager
def _patient_heartbeat() -> Iterator[None]:
    """Has TensorFlow give a silent peer up later than the watch over the steps does, which first writes down what happened."""
    runtime = context.context()
    configure = runtime.configure_coordination_service
    runtime.configure_coordination_service = functools.partial(configure, heartbeat_timeout_in_ms=HEARTBEAT_SECONDS * 1000)
    try:
        yield
    finally:
        del runtime.configure_coordination_service


def _keep_to_this_machine() -> None:
    """Closes this worker's port to other machines where no worker is on one."""
    config = json.loads(os.environ["TF_CONFIG"])
    addresses = [address.rpartition(":") for address in config["cluster"]["worker"]]
    if all(host in ("127.0.0.1", "localhost") for host, _, _ in addresses):
        loopback.keep(int(addresses[config["task"]["index"]][2]))


def connected() -> tf.distribute.Strategy | None:
    """Returns what `connect` returned in this process, or None."""
    return _connected[0] if _connected else None


def use_threads(threads: int) -> None:
    """Sets TensorFlow's threads for one operation, where it runs nothing yet in this process, and says so where it does.

    The order in which a kernel adds numbers depends on this count, and with it the last bits.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # a notebook, say, that has used TensorFlow before
        print(
            f"TensorFlow runs in this process already, with other threads than threads_per_worker={threads}: the last bits may "
            "differ from those of a run that begins anew.",
            flush=True,
        )


def be_deterministic() -> None:
    """Has TensorFlow choose kernels that give the same bits each time."""
    tf.config.experimental.enable_op_determinism()


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says that another worker is gone, not that something is wrong here."""
    gone = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError, tf.errors.CancelledError)
    return isinstance(error, gone) or (isinstance(error, tf.errors.OpError) and "Collective ops is aborted" in str(error))


def _local_devices(accelerator: str, count: int) -> list[str]:
    """Returns the names of this process's devices; CPU devices are made."""
    if accelerator == "gpu":
        return [f"GPU:{i}" for i in range(count)]
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    return [f"CPU:{i}" for i in range(count)]
