"""What each worker does, top to bottom."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

from service.cluster.notice import Notice
from service.errors import RolledBack, StorageError
from service.run import Run
from service.storage import urls
from service.storage.store import Store

if TYPE_CHECKING:  # a job's module names Worker long before TensorFlow is wanted
    import keras

    from service.attempt import Attempt
    from service.cluster.metrics import Gauges


class Worker:
    """One of the processes that run the author's job.

    Attributes:
        strategy: the tf.distribute strategy; models are made in `with worker.strategy.scope():`.
        index: which worker this is, from 0.
        count: how many workers there are.
        is_chief: whether this is worker 0.
        run: the run, with its seed filled in.
        options: what `service.train` was given besides, a read-only mapping.
        folder: the run's folder, an fsspec URL.
    """

    def __init__(self, run: Run, options: Mapping[str, Any], strategy: Any, attempt: "Attempt") -> None:
        self.run, self.options, self.strategy = run, MappingProxyType(dict(options)), strategy
        self.index, self.count = attempt.council.index, attempt.council.count
        self.is_chief = self.index == 0
        self.folder = attempt.store.url
        self._attempt = attempt

    def open(self, path: str, mode: str = "r") -> IO[Any]:
        """Opens a file in the run's folder; what another worker than the chief writes goes nowhere."""
        import fsspec

        if any(letter in mode for letter in "wax+") and not self.is_chief:
            return open(os.devnull, mode.replace("x", "w"))
        url = self._attempt.store.url_of(path)
        if urls.is_folder(url):
            os.makedirs(os.path.dirname(url), exist_ok=True)
        return fsspec.open(url, mode).open()

    def fit(self, model: Any, *args: Any, **kwargs: Any) -> "keras.callbacks.History":
        """Trains as `service.fit`, with the run's checkpoints, resume, history and logs.

        Each call is a stage, numbered from 1. A stage that finished in an earlier attempt is not
        trained again: the model gets what it left, and its history is returned.
        Collective: every worker calls this.
        """
        return self._attempt.fit(model, *args, **kwargs)

    def fit_generator(self, model: Any, *args: Any, **kwargs: Any) -> "keras.callbacks.History":
        """Keras 2's: `fit` with a generator, its arguments in the old order. Collective: every worker calls this."""
        from service import keras2

        return self._attempt.fit(model, **keras2.by_position("fit_generator", args, kwargs))

    def evaluate_generator(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Keras 2's: `evaluate` with a generator, its arguments in the old order. Collective: every worker calls this."""
        from service import keras2

        return self.evaluate(model, **keras2.by_position("evaluate_generator", args, kwargs))

    def predict_generator(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Keras 2's: `predict` with a generator, its arguments in the old order. Collective: every worker calls this."""
        from service import keras2

        return self.predict(model, **keras2.by_position("predict_generator", args, kwargs))

    def steps(self, total: int, models: "Mapping[str, keras.Model]", every: int = 100) -> Iterator[int]:
        """Yields the steps 0, 1, ... total - 1 of a loop written by hand, which is a stage as `fit` is.

        Every so many steps the models are committed, with their optimizers; a run that goes on
        puts them back and yields the steps that are left. Nobody looks at such a loop's losses: `Run.rollbacks` concerns `fit`.
        Collective: every worker iterates this.

            for step in worker.steps(1000, models={"g": g, "d": d}):
                worker.train_on_batch(d, ...)
                worker.train_on_batch(g, ...)

        Args:
            total: how many steps there are.
            models: the compiled models that the loop trains, by any names; each ends as model-NAME.keras, which
                `service.load_model(f"{result.url}/model-NAME.keras")` opens.
            every: steps between checkpoints; the last step is saved too.
        """
        return self._attempt.steps(total, models, every)

    def evaluate(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """As `service.evaluate`. Collective: every worker calls this."""
        from service import methods

        return methods.evaluate(model, *args, **kwargs)

    def predict(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """As `service.predict`. Collective: every worker calls this."""
        from service import methods

        return methods.predict(model, *args, **kwargs)

    def train_on_batch(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """As `service.train_on_batch`. Collective: every worker calls this."""
        return self._attempt.train_on_batch(model, *args, **kwargs)

    def test_on_batch(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """As `service.test_on_batch`. Collective: every worker calls this."""
        from service import methods

        return methods.test_on_batch(model, *args, **kwargs)


def perform(
    job: Callable[[Worker], Any],
    run: Run,
    options: Mapping[str, Any],
    store: Store,
    notice: Notice,
    gauges: "Gauges | None" = None,
) -> dict[str, Any]:
    """Runs the author's job on this worker, and returns the run's result as plain values.

    Collective: every worker calls this.

    Raises:
        JobFailed: the author's code raised; the message carries the traceback.
        RolledBack: training diverged; the next call goes on from an earlier checkpoint.
        Diverged: it did so more often than the run's rollbacks.
        RunInterrupted: the notice was given, and the workers have committed.
        ServiceError: the run, its data or its model is refused.
    """
    import keras

    from service.attempt import Attempt
    from service.cluster import strategy as strategies
    from service.cluster import termination

    strategies.use_threads(run.threads_per_worker)
    strategy = strategies.connect(run.devices_per_process, run.stall_seconds, run.accelerator)
    termination.pass_on(notice, has_peers=strategies.worker_count() > 1)
    keras.utils.set_random_seed(run.seed)
    if run.deterministic:
        strategies.be_deterministic()
    attempt = Attempt(run, store, strategy, notice, options, gauges)
    worker = Worker(run, options, strategy, attempt)
    try:
        returned = attempt.guarded(job, worker)
    except RolledBack:
        with contextlib.suppress(StorageError):  # of views, which the next attempt writes anew
            attempt.abandon()
        raise
    return attempt.finish(returned, options)
