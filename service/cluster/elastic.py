"""How many workers an elastic run can have now, on machines that stay."""

from typing import Any

import ray
from ray._private.state import state
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy


class OnMachinesThatStay(ElasticScalingPolicy):
    """Counts no machine that is gone or will be: Ray Train would reserve it again, and wait for it."""

    def _count_possible_workers(self, reserved_resources: dict[str, Any]) -> int:
        leaving = state.get_draining_nodes()
        staying = {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving}
        return super()._count_possible_workers({node: r for node, r in reserved_resources.items() if node in staying})
