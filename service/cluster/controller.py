"""Ray Train's controller: a second signal aborts it, and its death leaves nothing behind."""

import signal
from typing import Any

import ray
from ray._private.state import state
from ray._raylet import PlacementGroupID
from ray.core.generated import gcs_pb2
from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import TrainAutoscalingCoordinatorClient
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, remove_placement_group

from service.cluster.elastic import OnMachinesThatStay
from service.cluster.notice import Signals


class Trainer(DataParallelTrainer):
    """Leaves SIGINT to the run's own signals, where Ray Train would abort all workers at the first one.

    Where its controller dies, the resources are free that it had asked for.
    """

    def __init__(self, *args: Any, signals: Signals, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._signals = signals

    def _register_sigint_handler(self, controller: Any) -> None:
        super()._register_sigint_handler(controller)
        abort = signal.getsignal(signal.SIGINT)
        if callable(abort):
            self._signals.insist = abort
        self._signals.install()

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        if self.scaling_config.elasticity_enabled:
            given["scaling_policy"] = OnMachinesThatStay(self.scaling_config)
        return super()._initialize_and_run_controller(**given)

    def fit(self) -> Any:
        """As Ray Train's.

        Raises:
            RayActorError: the controller died, and its workers with it.
        """
        try:
            return super().fit()
        except RayActorError:
            # An elastic run would wait three minutes for what nobody holds any more.
            TrainAutoscalingCoordinatorClient(f"train-{self.train_run_context.run_id}").cancel_resource_request()
            _free_machines()
            raise


def _free_machines() -> None:
    """Gives back the machines that a dead actor of this driver had reserved; the controller is one.

    Ray Train's cleaner does so by the dashboard's word, which may be late or not there at all. What was
    meant to outlive its maker is left alone.
    """
    mine = ray.get_runtime_context().get_job_id()
    for data in state._connect_and_get_accessor().get_placement_group_table():
        found = gcs_pb2.PlacementGroupTableData.FromString(data)
        is_gone = found.state == gcs_pb2.PlacementGroupTableData.PlacementGroupState.REMOVED
        is_left = found.creator_actor_dead and not found.is_detached and not is_gone
        if found.creator_job_id.hex() == mine and is_left:
            remove_placement_group(PlacementGroup(PlacementGroupID(found.placement_group_id)))
