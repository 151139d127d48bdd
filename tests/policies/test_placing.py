"""Each kind and number of devices has its strategy, and the reason names what decides it."""

import pytest

from service.policies.placing import choose
from service.run import Run


@pytest.mark.parametrize(
    ("asked", "name", "why"),
    [
        ({}, "default", "one process drives one device"),
        ({"workers": 0}, "default", "one process drives one device"),
        ({"workers": 2}, "MultiWorkerMirroredStrategy", "2 processes with a device each sum over gRPC"),
        ({"workers": (1, 4)}, "MultiWorkerMirroredStrategy", "4 processes"),
        ({"devices_per_worker": 2}, "MirroredStrategy", "one process drives 2 devices"),
        ({"accelerator": "gpu"}, "default", "one process drives one device"),
        ({"accelerator": "gpu", "devices_per_worker": 8}, "MirroredStrategy", "one process drives 8 devices"),
        # 4 workers x 8 GPUs
        ({"accelerator": "gpu", "workers": 4, "devices_per_worker": 8}, "MultiWorkerMirroredStrategy", "32 processes"),
        ({"accelerator": "gpu", "workers": 2}, "MultiWorkerMirroredStrategy", "NCCL"),
        ({"accelerator": "tpu", "devices_per_worker": 4, "topology": "2x2"}, "TPUStrategy", "all 4 chips of its host"),
        ({"accelerator": "tpu", "workers": 4, "devices_per_worker": 4, "topology": "4x4"}, "TPUStrategy", "all 4 hosts"),
    ],
)
def test_each_run_has_its_strategy_and_the_reason(asked, name, why):
    choice = choose(Run("r", **asked))
    assert choice.name == name and why in choice.why
