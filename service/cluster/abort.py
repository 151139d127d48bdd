"""Ray Train's trainer, whose abort is what a second signal does."""

import signal
from typing import Any

from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from service.cluster.notice import Signals


class InterruptibleTrainer(DataParallelTrainer):
    """Leaves SIGINT to the run's own signals, where Ray Train would abort all workers at the first one."""

    def __init__(self, *args: Any, signals: Signals, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._signals = signals

    def _register_sigint_handler(self, controller: Any) -> None:
        super()._register_sigint_handler(controller)
        abort = signal.getsignal(signal.SIGINT)
        if callable(abort):
            self._signals.insist = abort
        self._signals.install()
