"""One fit's callbacks, called so that no worker tears a file, waits or decides alone."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from service.callbacks import alone, saving_once, watching
from service.callbacks.learning_rate import optimizers_of, rate_of
from service.callbacks.setting import Setting
from service.cluster.consensus import Council
from service.exact import keras_seams

_WRITERS = (
    *(keras.callbacks.ModelCheckpoint, keras.callbacks.CSVLogger, keras.callbacks.TensorBoard),
    *(keras.callbacks.BackupAndRestore, keras.callbacks.RemoteMonitor),
)
_KINDS = ("train", "test", "predict")
_HOOKS = (
    *("on_epoch_begin", "on_epoch_end"),
    *(f"on_{kind}_{moment}" for kind in _KINDS for moment in ("begin", "end", "batch_begin", "batch_end")),
)
_AGREEING = ("on_train_begin", "on_epoch_begin", "on_epoch_end")


def chief_only(callback: Any) -> Any:
    """Returns the callback, marked to be called on the chief alone, as one that writes files or sends messages.

    Its wish to stop, and the learning rate it sets at the begin or end of an epoch, hold on all
    workers. It may call the model's predict, evaluate and save, but nothing that all workers
    must call together.
    """
    callback.chief_only = True
    return callback


def is_chief_only(callback: Any) -> bool:
    """Whether a callback is called on the chief alone: so marked, or of the author's own class that writes files as Keras's."""
    writes = isinstance(callback, _WRITERS) and not hasattr(callback, "join")
    return bool(getattr(callback, "chief_only", writes))


class SafeList(keras.callbacks.CallbackList):
    """Keras's list, with its order of the moments.

    Every hook is called in the training thread; those that a callback does not have cost nothing.

    Attributes:
        rate_setter: the callback that set a learning rate last on this worker, and where; for a message.
    """

    def __init__(
        self,
        callbacks: Iterable[Any],
        council: Council,
        setting: Setting,
        exact: dict[str, Callable[..., Any]],
        validates: bool,
        add_progbar: bool,
        **params: Any,
    ) -> None:
        """`exact`: this package's evaluate and predict; `validates`: whether there are validation metrics."""
        self._council, self._setting, self._exact, self._validates = council, setting, exact, validates
        self.rate_setter = ""
        self._is_resolved = False
        saving_once.install()
        super().__init__(list(callbacks), add_progbar=add_progbar, **params)
        self._alone = [callback for callback in self.callbacks if is_chief_only(callback)]
        self._called = {hook: [c for c in self.callbacks if self._takes_part(c, hook)] for hook in _HOOKS}
        if not setting.is_chief:
            for callback in self.callbacks:
                if type(getattr(callback, "verbose", None)) is int and isinstance(callback, keras.callbacks.Callback):
                    callback.verbose = 0

    def _configure_async_dispatch(self, callbacks: Any) -> None:
        """Nothing is called in another thread."""

    def _takes_part(self, callback: Any, hook: str) -> bool:
        """Whether a hook of the callback concerns this worker: it is called here, or its rates are heard of."""
        if is_chief_only(callback) and not self._setting.is_chief and hook not in _AGREEING:
            return False
        names = [hook, hook.replace("_train_batch", "_batch")]
        return any(not keras_seams.is_default(getattr(callback, name)) for name in names if hasattr(callback, name))

    def _tell(self, hook: str, *args: Any) -> None:
        if hook == "on_train_batch_end" and not self._is_resolved:
            self._resolve(args[1])
        for callback in self._called[hook]:
            is_alone = callback in self._alone
            if is_alone and not self._setting.is_chief:
                pass
            elif watching.runs_own_code(callback):
                with saving_once.hook(self._setting.is_chief, self._exact), alone.on_the_chief(is_alone):
                    self._watched(callback, hook, args)
            elif hook in _AGREEING:
                self._watched(callback, hook, args)
            else:
                getattr(callback, hook)(*args)
            if is_alone and hook in _AGREEING:
                self._agree_on_rates()

    def _watched(self, callback: Any, hook: str, args: tuple[Any, ...]) -> None:
        before = self._rates()
        getattr(callback, hook)(*args)
        if before != self._rates():
            self.rate_setter = f"{type(callback).__name__}.{hook}"

    def _rates(self) -> list[float]:
        optimizer = getattr(self.model, "optimizer", None)
        return [rate_of(one) for one in optimizers_of(optimizer) if hasattr(one, "learning_rate")]

    def _agree_on_rates(self) -> None:
        """Gives every worker the chief's learning rates, which a callback on the chief alone may have set."""
        mine = np.array(self._rates())
        theirs = self._council.from_chief(mine.view(np.int64)).view(np.float64)
        for one, old, new in zip(optimizers_of(self.model.optimizer), mine, theirs, strict=True):
            if new != old:
                one.learning_rate = float(new)

    def _resolve(self, logs: dict[str, Any] | None) -> None:
        self._is_resolved = True
        names = {*(logs or {}), "learning_rate"}
        names |= {f"val_{name}" for name in logs or ()} if self._validates else set()
        watching.resolve(self.callbacks, self.model, names)


def _hook(name: str) -> Any:
    def told(self: SafeList, *args: Any) -> None:
        *place, logs = args if len(args) == _ARGUMENTS[name] else (*args, None)
        self._tell(name, *place, keras_seams.pythonify(logs))

    return told


_ARGUMENTS = {hook: 2 if "batch" in hook or "epoch" in hook else 1 for hook in _HOOKS}
for _name in _HOOKS:
    setattr(SafeList, _name, _hook(_name))
