"""How many workers an elastic run can have now, on machines that stay."""

import concurrent.futures
import socket
from collections.abc import Mapping
from typing import Any

import ray
from ray._private.state import state
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ResizeDecision, ScalingDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState

_ANSWER_SECONDS = 1.0


class OnMachinesThatStay(ElasticScalingPolicy):
    """Counts no machine that is gone or will be: Ray Train would reserve it again, and wait for it.

    Ray itself takes a while to count a machine as gone that lost its power, so each one is asked.
    """

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Lets a running group only grow: it hears of a machine that goes, and of one that went, another way.

        Before a group is resized it commits, which it cannot any more with a worker that is gone.
        """
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if isinstance(decision, ResizeDecision) and decision.num_workers < worker_group_state.num_workers:
            return NoopDecision()
        return decision

    def _count_possible_workers(self, reserved_resources: dict[str, Any]) -> int:
        leaving = state.get_draining_nodes()
        reserved = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] in reserved_resources]
        with concurrent.futures.ThreadPoolExecutor(max_workers=32) as asking:
            answered = [*asking.map(_answers, reserved)]
        staying = {node["NodeID"] for node, answers in zip(reserved, answered, strict=True) if answers} - set(leaving)
        return super()._count_possible_workers({node: r for node, r in reserved_resources.items() if node in staying})


def _answers(node: Mapping[str, Any]) -> bool:
    """Whether somebody listens where the machine's raylet does."""
    try:
        with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=_ANSWER_SECONDS):
            return True
    except OSError:
        return False
