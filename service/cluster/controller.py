"""Ray Train's controller: a second signal aborts it, and its death leaves nothing behind."""

import signal
from typing import Any

from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import TrainAutoscalingCoordinatorClient
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

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
            raise
