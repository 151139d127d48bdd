"""One run, as a Ray Train job."""

import contextlib
import dataclasses
import functools
import os
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from service import environment, record, reference
from service.cluster import devices, ray_cluster
from service.cluster.notice import Notice, Signals, signals, time_limit
from service.errors import JobFailed, PeerLost, RunInvalid, ServiceError, StartAgain
from service.exact import keras_seams
from service.run import Run
from service.storage import retries, urls
from service.storage.commits import CommitLog
from service.storage.store import Store

# Where storage is; never a secret, for a cluster's dashboard shows what workers begin with. They
# open storage with their own node's credentials.
_TOLD_TO_WORKERS = (
    *("STORAGE_EMULATOR_HOST", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
)

# How often Ray Train looks whether a run of (min, max) workers can have another number; each change costs a restart.
_RESIZE_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run left.

    Attributes:
        history: each metric's value for each epoch, the same on all workers.
        metrics: the last epoch's, and what the job returned by name.
        url: the run's folder.
    """

    history: dict[str, list[float]]
    metrics: dict[str, float]
    url: str

    def model(self) -> Any:
        """Loads the finished model, compiled, as `service.load_model(url)` does."""
        from service.training.models import load_model

        return load_model(self.url)


def train(job: Callable[..., Any], run: Run, **options: Any) -> Result:
    """Runs `job(worker)` on all workers of the run and returns what it left.

    The same name again continues the run, or returns its recorded result if it is finished.

    Args:
        job: a function at the top of a module, called with a `service.Worker` on every worker.
        run: the run.
        options: what the job reads as `worker.options`; plain JSON values.

    Raises:
        RunInvalid, EnvironmentUnfit, ClusterTooSmall: before any cluster is reserved.
        JobFailed: the job raised; the message carries its traceback.
        RunInterrupted: this process got SIGINT or SIGTERM, or the run's max_seconds have passed, and the workers have
            committed where they were.
        DataInvalid, ModelInvalid, WorkersDiffer: as found on the workers.
    """
    if not isinstance(run, Run):
        raise RunInvalid(f"service.train(job, {run!r}): expected a service.Run(name=..., storage=..., workers=...).")
    named = reference.reference_of(job)
    url = urls.check_url(f"{run.storage.rstrip('/')}/{run.name}")
    environment.check()
    keras_seams.check()
    options = record.plain(options)
    _check_place(run)
    if run.workers != 0:
        ray_cluster.check_machine(run)
    elif run.accelerator != "cpu":
        devices.check(run, [devices.this_machine(run.accelerator)], "this machine")
    store = Store(url)
    store.check()
    run = record.begin(store, run, named, options, reference.source_of(job))
    done = record.finished(store, options)
    if done is not None:
        print(f'Run "{run.name}" is finished; this is its recorded result.', flush=True)
    else:
        with record.owned(store):
            done = _perform(job, named, run, options, store)
    return Result(done["history"], done["metrics"], store.url)


def _check_place(run: Run) -> None:
    """Refuses a folder that would go with the job."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and urls.is_folder(run.storage) and not os.path.isabs(run.storage):
        raise RunInvalid(
            f'Run(storage="{run.storage}") in a submitted job would lie in the folder that Ray unpacked the job into, and go '
            "with it. Give a URL, or an absolute folder that every node reaches."
        )


def _perform(job: Callable[..., Any], named: str | None, run: Run, options: Mapping[str, Any], store: Store) -> dict[str, Any]:
    if run.workers != 0:
        return _perform_on_ray(job, named, run, options, store)
    from service import worker

    notice = Notice()
    with signals(notice.give), time_limit(run.max_seconds, notice.give):
        while True:
            with contextlib.suppress(StartAgain):
                # By its name, so that classes of a module that was started as __main__ have their own module's name.
                return worker.perform(reference.resolve(named) if named else job, run, options, store, notice)


def _perform_on_ray(
    job: Callable[..., Any], named: str | None, run: Run, options: Mapping[str, Any], store: Store
) -> dict[str, Any]:
    from ray.exceptions import RayActorError

    from service.cluster import relay as relays
    from service.cluster.console import Console
    from service.cluster.failures import StopAtErrors

    with contextlib.ExitStack() as stack:
        stack.enter_context(ray_cluster.joined(run))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="samestep-ray-"))
        relay = relays.started()
        stack.enter_context(Console(relay))
        ask_to_leave = functools.partial(relay.ask.remote, "leave")
        heard = stack.enter_context(signals(ask_to_leave))
        stack.enter_context(time_limit(run.max_seconds, ask_to_leave))
        config = {
            "job": named or ray_cluster.by_value(job),
            "run": run.to_dict(),
            "options": dict(options),
            "store": store,
            "relay": relay,
            "is_terminal": sys.stdout.isatty(),
        }
        judge = StopAtErrors(relay, functools.partial(_newest_checkpoint, store), run.max_restarts, store.url)
        while True:
            try:
                return _fit(config, run, scratch, judge, heard)
            except RayActorError:
                judge.lost_controller()


def _fit(config: dict[str, Any], run: Run, scratch: str, judge: Any, heard: Signals) -> dict[str, Any]:
    """Has one controller of Ray Train start the workers, again and again where it must, and returns what the chief does."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.exceptions import ControllerError

    from service.cluster.backend import TpuHosts, WorkerAddresses
    from service.cluster.controller import Trainer
    from service.cluster.moves import CommitFirst

    trainer = Trainer(
        _work,
        train_loop_config=config,
        backend_config=TpuHosts() if run.accelerator == "tpu" else WorkerAddresses(),
        scaling_config=ScalingConfig(**devices.scaling(run, ray.nodes()), elastic_resize_monitor_interval_s=_RESIZE_SECONDS),
        run_config=RunConfig(
            name=f"{run.name}-{uuid.uuid4().hex[:8]}",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=-1),  # the judge counts
            callbacks=[judge, CommitFirst(config["relay"])],
            worker_runtime_env={"env_vars": _worker_variables(run)},
        ),
        signals=heard,
    )
    try:
        return trainer.fit().return_value
    except ControllerError as error:
        raise _cause(error.controller_failure) from None
    except SystemExit:
        raise KeyboardInterrupt from None  # how Ray Train ends a run that it aborts


def _newest_checkpoint(store: Store) -> int:
    """Returns the number of the run's newest checkpoint; 0 without one."""
    log = CommitLog(Store(store.url, retry=retries.Policy(deadline_seconds=10)))  # the workers wait
    log.refresh()
    return max((entry.number for entry in log.checkpoints()), default=0)


def _work(config: dict[str, Any]) -> dict[str, Any] | None:
    """What Ray runs on each worker: the author's job, its output kept, the chief's relayed."""
    import ray.train

    from service import worker
    from service.cluster import tpu
    from service.cluster.console import RemoteOutput
    from service.cluster.metrics import Gauges
    from service.kept import Kept

    job = reference.resolve(config["job"]) if isinstance(config["job"], str) else config["job"]
    output = None
    notice = Notice()
    index = ray.train.get_context().get_world_rank()
    kept = Kept(config["store"], index, config["relay"], config["run"]["stall_seconds"])
    if index == 0:
        output = sys.stdout = RemoteOutput(config["relay"], config["is_terminal"], kept.output.write)
        notice.listen(config["relay"])
    try:
        run = Run(**config["run"])
        if run.accelerator == "tpu" and index != 0:
            tpu.serve(config["relay"])
            return None
        gauges = Gauges(run.name, index, config["relay"])
        done = worker.perform(job, run, config["options"], config["store"], notice, gauges)
        ray.get(config["relay"].end.remote())
        return done
    except StartAgain:
        if index == 0:
            ray.get(config["relay"].tell_moved.remote())
        raise
    except BaseException as error:
        traceback.print_exc()  # the driver hears of the first worker's; the file keeps each one's
        config["relay"].tell_moved.remote()  # should the controller wait for them to commit
        if type(error).__module__.startswith("tensorflow."):
            raise PeerLost(f"{type(error).__name__}: {error}") from None  # an error of the job's own is a JobFailed already
        raise
    finally:
        if output is not None:
            output.drain()
        kept.close()
        if output is not None:
            output.drain()


def _worker_variables(run: Run) -> dict[str, str]:
    """Returns the environment that each worker begins with, before it imports anything.

    Which GPUs are a worker's, Ray tells it; where none is, it should not look at those of its machine.
    """
    here = {name: os.environ[name] for name in _TOLD_TO_WORKERS if name in os.environ}
    paths = [*reference.import_paths(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
        "TF_USE_LEGACY_KERAS": "0",
        "KERAS_BACKEND": "tensorflow",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        **({"CUDA_VISIBLE_DEVICES": ""} if run.accelerator == "cpu" else {}),
        **here,
    }


def _cause(failure: BaseException) -> BaseException:
    """Returns the service's own error inside what Ray wrapped around it."""
    seen: BaseException | None = failure
    while seen is not None and not isinstance(seen, ServiceError):
        seen = getattr(seen, "_base_exc", None) or seen.__cause__
    return seen or JobFailed(str(failure))
