"""One attempt at a run, on one worker: what it takes up, saves and leaves."""

import contextlib
import functools
import json
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from service import methods, secrecy
from service.callbacks.checkpoint import Checkpoints
from service.callbacks.divergence import Divergence
from service.callbacks.history import HistoryFiles
from service.callbacks.setting import Setting
from service.callbacks.tensorboard import TensorBoard
from service.cluster import strategy as strategies
from service.cluster.consensus import Council
from service.cluster.metrics import Gauges
from service.cluster.notice import Notice
from service.earlier import Earlier, take_over
from service.errors import Corrupt, JobFailed, RunInvalid, ServiceError, StartAgain, StorageError, Superseded
from service.policies.keeping import policy_of
from service.policies.saving import SavePolicy
from service.run import Run
from service.storage import layout
from service.storage.commits import CommitLog
from service.storage.store import Store
from service.training import models
from service.training.saver import Saver
from service.training.start import Start
from service.training.state import history_of, restore_callbacks, restore_models, snapshot


class Attempt:
    """From the start of the workers to their end, the run's or not.

    The chief opens the attempt in the commit log, which stops every older one.

    Attributes:
        store: the run's.
        council: the workers of this attempt.
    """

    def __init__(
        self,
        run: Run,
        store: Store,
        strategy: Any,
        notice: Notice,
        options: Mapping[str, Any] | None = None,
        gauges: Gauges | None = None,
    ) -> None:
        """Collective: every worker calls this."""
        self._gauges = gauges
        self._options = dict(options or {})
        self.store, self.council = store, Council(strategy)
        self._run, self._notice = run, notice
        self._is_asked = self._is_leaving = False
        self._is_chief = self.council.index == 0
        name = self.council.chief(uuid.uuid4().hex[:12])
        log = CommitLog.open(store, name, {"workers": self.council.count}) if self._is_chief else None
        opened = self.council.chief(log.last if log else 0)
        self._check_storage(opened)
        self._earlier = Earlier(store, self.council, opened)
        keep = policy_of(run.keep, run.keep_best, run.keep_every_steps)
        self._saver = Saver(store, log, name, self.council, keep, self._publish, self._unwritten, gauges)
        if gauges is not None and log is not None:
            gauges.restarted([entry.kind for entry in log.entries()].count("opened") - 1)
        self._setting: Setting | None = None
        self._stages = self._epochs = 0
        self._history: dict[str, list[float]] = {}

    def _check_storage(self, opened: int) -> None:
        """Refuses a folder that is another one on other machines. Collective: every worker calls this.

        Raises:
            WorkersDiffer: naming the workers that do not see the entry which opened this attempt.
        """
        path = layout.commit(opened)
        seen = self.store.read(path) if self.store.exists(path) else b""
        self.council.check_same(
            {self.store.url_of(path): np.frombuffer(seen, np.uint8)},
            "The workers must see one folder: give storage that every node reaches, such as gs://bucket/runs or a mounted one.",
        )

    def fit(self, model: Any, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains the next stage, or takes up what an earlier attempt left of it. Collective: every worker calls this."""
        self._stages += 1
        number = self._stages
        run = self._run
        self._keep_compiler(model)
        self._saver.committed = 0
        policy = SavePolicy(run.save_every_steps, run.save_every_seconds, run.save_every_epochs)
        divergence = Divergence(run, self._saver, self.council, number)
        checkpoints = Checkpoints(self._saver, policy, number, self._is_chief, self._notice, divergence, self._gauges)
        self._setting = setting = Setting(self._is_chief, self.store, number, self._facts(), self.council.count)
        stage = methods.Stage(
            setting=setting,
            callbacks=[HistoryFiles(setting), TensorBoard(), checkpoints],
            saving=checkpoints,
            seed=run.seed or 0,
            start=functools.partial(self._start, number, checkpoints),
        )
        history = methods.fit(model, *args, **kwargs, stage=stage)
        self._history = history_of(model)
        if self._is_chief:
            result = {"epochs": self._epochs, "stopped": bool(model.stop_training), "history": self._history}
            with self._concluding(f"All of stage {number} is committed"):
                self._saver.append("stage", {"stage": number, "result": result})
                self._leave_model(model, number)
                setting.close()
        return history

    def _keep_compiler(self, model: Any) -> None:
        """Has a run that may have several workers do without XLA on one of them too.

        Their steps hold collectives, which XLA does not compile, and its noise is another than TensorFlow's.
        """
        if self._run.most_workers > 1 and model.jit_compile:
            model.jit_compile = False

    @contextlib.contextmanager
    def _concluding(self, committed: str) -> Iterator[None]:
        """Tells, where the storage fails inside the block, what is safe and what to do."""
        try:
            yield
        except (Superseded, Corrupt):
            raise
        except StorageError as error:
            raise StorageError(
                f"{error}\n{committed}. Once the storage is mended, the same command writes the rest."
            ) from error

    def _facts(self) -> dict[str, Any]:
        """Returns what tells this run from others."""
        return {"workers": self.council.count, "seed": self._run.seed or 0, **self._options}

    def _publish(self) -> None:
        if self._setting is not None:
            self._setting.publish()

    def _unwritten(self) -> list[str]:
        return self._setting.unwritten() if self._setting is not None else []

    def train_on_batch(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Takes one step; the workers' wish to leave travels with it. Collective: every worker calls this."""
        self._keep_compiler(model)
        return methods.train_on_batch(model, *args, **kwargs, wishes=self)

    def wishes(self) -> tuple[bool, bool]:
        """Whether this worker wishes a checkpoint after the next step, and to leave after it."""
        return self._is_chief and self._saver.wants(), self._notice.is_given()

    def hear(self, leave: bool) -> None:
        """A worker wished, in a step just taken, a checkpoint or to leave: `steps` does so where its loop comes round."""
        self._is_asked, self._is_leaving = True, self._is_leaving or leave

    def guarded(self, job: Callable[[Any], Any], worker: Any) -> Any:
        """Returns what the job returns; its errors become JobFailed, for they would only repeat.

        A worker that lost its peer keeps TensorFlow's error: starting again mends that.
        """
        try:
            return job(worker)
        except (ServiceError, StartAgain):
            raise
        except Exception as error:
            if strategies.is_lost_peer(error):
                raise
            text = f"The job raised on worker {self.council.index}:\n\n{_of_the_author(error)}"
            shown = secrecy.redacted(text, secrecy.of_environment())
            raise JobFailed(shown) from (error if shown == text else None)  # a traceback shows causes

    def abandon(self) -> None:
        """Lets what is being saved be committed, after which this attempt does nothing more; another may follow here."""
        self._saver.wait()
        if self._setting is not None:
            self._setting.publish()
            self._setting.close()

    def finish(self, returned: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """Commits the end of the run, and returns its result as plain values."""
        metrics = {name: values[-1] for name, values in self._history.items() if values}
        if isinstance(returned, Mapping):
            metrics |= {str(name): float(value) for name, value in returned.items() if isinstance(value, int | float)}
        result = {"history": self._history, "metrics": metrics}
        with self._concluding("All that was trained is committed"):
            self._saver.append("finished", {"options": dict(options), **result})
        return result

    def steps(self, total: int, trained: Mapping[str, Any], every: int) -> Iterator[int]:
        """Yields the numbers of the steps that are left of a hand-written loop. Collective: every worker calls this."""
        if total < 1 or every < 1 or not trained or not all(name and model.compiled for name, model in trained.items()):
            raise RunInvalid(
                f"worker.steps({total}, models={sorted(trained)}, every={every}): expected whole numbers, 1 or more, and "
                "compiled models by name."
            )
        self._stages += 1
        number = self._stages
        _, found = self._earlier.newest(number, total, any_kind=True)
        identity = {"kind": "steps"}
        if found is not None:
            self._earlier.check_identity(number, found.entry.body["identity"], identity)
            restore_models(trained, found.entry.body["state"], found.tensors)
            restore_callbacks([], found.entry.body["state"], found.tensors)
        self._saver.committed = 0 if found is None else found.entry.body["step"]
        for step in range(self._saver.committed, total):
            yield step
            if (step + 1) % every == 0 or step + 1 == total or self._is_asked:
                tensors, state = snapshot(trained, [])
                place = {"stage": number, "step": step + 1, "epoch": 0, "batch": 0, "final": False}
                body = {**place, "metrics": {}, "identity": identity, "state": state}
                self._saver.save(tensors, body, in_full=step + 1 == total or self._is_leaving)
                self._is_asked = False
            if self._is_leaving:
                self._saver.leave(f"step {step + 1} of {total}", self._notice.is_end())
        self._saver.settle()
        with self._concluding(f"All of stage {number} is committed"):
            self._saver.append("stage", {"stage": number, "result": {"epochs": total, "stopped": False, "history": {}}})
            for name, model in trained.items() if self._is_chief else ():
                self._leave_model(model, number, name)

    def _leave_model(self, model: Any, number: int, name: str = "") -> None:
        """Writes the finished model where `load_model` finds it."""
        self.store.write(layout.model_json(number, name), json.dumps(models.describe(model), indent=1).encode())
        self.store.write(layout.model(number, name), models.to_bytes(model))

    def _start(
        self,
        number: int,
        checkpoints: Checkpoints,
        model: Any,
        stateful: list[Any],
        given: Start,
        epochs: int,
        identity: dict[str, Any],
    ) -> Start:
        """Puts the model where the stage's newest checkpoint left it, and tells where training begins."""
        checkpoints.watch(stateful)
        checkpoints.identity = identity
        self._epochs = epochs
        given.leaves_out, (is_over, found) = (
            self._earlier.left_out(number, self._saver.log),
            self._earlier.newest(number, epochs),
        )
        if found is None:
            self._say_what_loading_will_lack(model)
            for callback in stateful:
                if isinstance(callback, TensorBoard):
                    callback.begin_anew()
            return given
        if self._setting is not None:
            self._setting.is_resuming = not is_over
        body, tensors = found.entry.body, found.tensors
        self._earlier.check_identity(number, body["identity"], identity)
        restore_models({"": model}, body["state"], tensors)
        checkpoints.begin(body)
        begun = Start(
            epoch=body["epoch"],
            batch=body["batch"],
            leaves_out=given.leaves_out,
            is_over=is_over,
            is_stopped=bool(body["state"]["stopping"]),
            restore=lambda: restore_callbacks(stateful, body["state"], tensors),
        )
        if is_over:
            take_over(model, stateful, begun)
        return begun

    def _say_what_loading_will_lack(self, model: Any) -> None:
        if self._is_chief and (lacks := models.missing(model)):
            print(
                f"service.load_model will not bring this model back: {'; '.join(lacks)}. The run trains, goes on after a crash "
                "and keeps the weights.",
                flush=True,
            )


def _of_the_author(error: BaseException) -> str:
    """Returns the traceback from the job's first line on, without the line that called it."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))
