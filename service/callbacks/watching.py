"""What callbacks that watch a number have in common: its name and which way is better."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import keras

from service import keras2
from service.errors import OptionUnknown, RunInvalid, did_you_mean
from service.exact import keras_seams
from service.policies.improving import Better, mode_of
from service.training.rehearsal import brings

MODES = ("auto", "min", "max")
Class = TypeVar("Class", bound=type)


def better(callback: Any) -> Better:
    """Returns what is better for a callback with Keras's attributes monitor, mode and min_delta."""
    return Better(mode_of(callback.mode, callback.monitor), abs(callback.min_delta), keras.config.floatx())


def watched(callback: Any, logs: Mapping[str, Any] | None) -> float | None:
    """Returns the number that the callback watches; None in an epoch that does not have it, as one without validation."""
    value = (logs or {}).get(keras2.monitor(callback.monitor, logs or ()))
    return None if value is None else float(value)


def resolve(callbacks: Iterable[Any], model: Any, names: set[str]) -> None:
    """Gives the callbacks today's names of what they watch, and refuses a name that can never appear.

    Args:
        callbacks: all callbacks of one fit. Where one of the author's own is among them, it may add
            names to the logs, so that nothing is refused.
        model: the model they are told of; one with a test_step of its own may validate by other names.
        names: what the logs of an epoch with validation hold.

    Raises:
        RunInvalid: naming the callback, what it watches, and the names there are.
    """
    callbacks = list(callbacks)
    may_come = any(_may_add(callback) for callback in callbacks)
    validates_itself = brings(model, "test_step", "compute_metrics")
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(callback, keras.callbacks.Callback) or not isinstance(monitor, str) or not _is_looked_at(callback):
            continue
        found = keras2.monitor(monitor, names)
        if found in names:
            callback.monitor = found
        elif not may_come and not (validates_itself and monitor.startswith("val_")):
            raise RunInvalid(
                f'{type(callback).__name__} watches "{monitor}", which the logs will never hold. {did_you_mean(monitor, names)}'
                + ("" if monitor.removeprefix("val_") == monitor else " Names with val_ need validation data.")
            )
        if getattr(callback, "mode", None) == "auto" and not keras_seams.knows_direction(model, callback.monitor):
            callback.mode = mode_of("auto", callback.monitor)


def is_authors(callback: Any) -> bool:
    """Whether a callback is of a class of the author's own."""
    return type(callback).__module__.partition(".")[0] not in ("keras", "service")


def runs_own_code(callback: Any) -> bool:
    """Whether a callback runs code of the author's: of a class, or of functions."""
    return is_authors(callback) or isinstance(callback, keras.callbacks.LambdaCallback)


def _may_add(callback: Any) -> bool:
    """Whether a callback may add names to an epoch's logs."""
    return is_authors(callback) or (runs_own_code(callback) and not keras_seams.is_default(callback.on_epoch_end))


def _is_looked_at(callback: Any) -> bool:
    return bool(getattr(callback, "save_best_only", True))


def refusing_unknown(names: Mapping[str, str]) -> Callable[[Class], Class]:
    """Lets a callback be made with Keras 2's names of its arguments, and refuses names that are none.

    Args:
        names: today's name of each old one.
    """

    def decorated(callback: Class) -> Class:
        make = callback.__init__  # type: ignore[misc]  # the class's own
        known = [name for name in inspect.signature(make).parameters if name != "self"]

        def accepting(self: Any, *args: Any, **kwargs: Any) -> None:
            for old, new in names.items():
                if old in kwargs:
                    if new in kwargs:
                        raise RunInvalid(
                            f"{callback.__name__} got {old} beside {new}, which is its name today. Give {new} alone."
                        )
                    kwargs[new] = kwargs.pop(old)
            for name in kwargs.keys() - set(known):
                raise OptionUnknown(f'{callback.__name__} has no argument "{name}". {did_you_mean(name, known)}')
            if kwargs.get("mode", "auto") not in MODES:
                raise RunInvalid(f"{callback.__name__}: mode={kwargs['mode']!r}: expected one of {', '.join(MODES)}.")
            make(self, *args, **kwargs)

        accepting.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]  # what help shows
        accepting.__doc__ = make.__doc__
        callback.__init__ = accepting  # type: ignore[misc]  # the class's own
        return callback

    return decorated
