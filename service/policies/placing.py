"""Which tf.distribute strategy trains on a run's devices, and why that one."""

from typing import NamedTuple

from service.run import Run


class Choice(NamedTuple):
    """A strategy.

    Attributes:
        name: its class in tf.distribute, or "default" for TensorFlow's own for one device.
        why: the reason, a sentence.
    """

    name: str
    why: str


def choose(run: Run) -> Choice:
    """Returns the strategy for the most worker processes that the run may have.

    ParameterServerStrategy and CentralStorageStrategy are never it: they update without waiting for all
    replicas, or keep variables away from them, so their step is not the step of one device.
    """
    count = run.processes if isinstance(run.processes, int) else run.processes[1]
    devices = run.devices_per_process
    if run.accelerator == "tpu":
        if run.workers in (0, 1):
            return Choice("TPUStrategy", f"one process drives all {devices} chips of its host")
        return Choice("TPUStrategy", f"one process drives the chips of all {run.workers} hosts of the slice")
    if count > 1:
        means = "NCCL" if run.accelerator == "gpu" else "gRPC"
        return Choice("MultiWorkerMirroredStrategy", f"{count} processes with a device each sum over {means}")
    if devices > 1:
        return Choice(
            "MirroredStrategy", f"one process drives {devices} devices, so its variables live in the strategy's scope"
        )
    return Choice("default", "one process drives one device: there is nobody to sum with")
