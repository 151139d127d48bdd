"""Workers commit before a machine is taken away or their number changes."""

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller.state import PreemptingState, ResizingState

from service.cluster.notice import PATIENCE_SECONDS


class CommitFirst(ControllerCallback, WorkerGroupCallback):
    """Runs in Ray Train's controller, which by itself would end the workers wherever they are.

    Args:
        relay: passes on what is asked, and that it was done.
    """

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """New workers were asked nothing yet."""
        ray.get(self._relay.begin_group.remote())

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Asks the workers to make way; where all will end at once it waits for them."""
        if isinstance(current_state, PreemptingState) and not isinstance(previous_state, PreemptingState):
            self._say("A machine of the run is about to be taken away.")
        elif isinstance(current_state, ResizingState):
            self._say(f"The cluster has room for {current_state.scaling_decision.num_workers} workers.")
            ray.get(self._relay.moved.remote(PATIENCE_SECONDS))

    def _say(self, why: str) -> None:
        self._relay.put.remote(f"{why} The workers commit a checkpoint and start again.\n")
        ray.get(self._relay.ask.remote("move"))
