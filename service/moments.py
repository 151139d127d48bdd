"""The callbacks of one call to fit or its siblings, in Keras's order."""

import sys
from collections.abc import Callable
from typing import Any

import keras

from service.callbacks.progress import EpochLines
from service.callbacks.safe import SafeList
from service.callbacks.setting import Setting
from service.callbacks.tensorboard import TensorBoard
from service.cluster.consensus import Council


def given(callbacks: Any) -> list[Any]:
    """Returns the author's callbacks as a list: one, a nested list, or Keras's CallbackList."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return keras.tree.flatten(callbacks) if callbacks else []


def stateful(own: list[Any], of_the_run: list[Any], setting: Setting) -> list[Any]:
    """Returns the callbacks whose state is the run's, in Keras's order: the author's, History, the run's.

    A run's logs have one writer: a TensorBoard of the author's, with its options, or else the run's.
    """
    boards = [callback for callback in own if isinstance(callback, TensorBoard)]
    if len(boards) > 1 and setting.run is not None:
        setting.say(f"There are {len(boards)} TensorBoard callbacks; a run has one writer, with the first one's options.")
        own = [callback for callback in own if callback not in boards[1:]]
    if boards:
        of_the_run = [callback for callback in of_the_run if not isinstance(callback, TensorBoard)]
    history = [] if any(isinstance(callback, keras.callbacks.History) for callback in own) else [keras.callbacks.History()]
    return [*own, *history, *of_the_run]


def recorder(callbacks: list[Any]) -> TensorBoard | None:
    """Returns the callback that the loop tells of gradients and pace, if there is one."""
    return next((callback for callback in callbacks if isinstance(callback, TensorBoard)), None)


def listed(
    model: Any,
    callbacks: Any,
    verbose: Any,
    council: Council,
    epochs: int,
    steps: int | None,
    *,
    setting: Setting | None = None,
    exact: dict[str, Callable[..., Any]] | None = None,
    validates: bool = False,
    lines: bool = False,
) -> keras.callbacks.CallbackList:
    """Returns Keras's list of the callbacks; the chief's shows the progress, a bar on a terminal, else lines.

    Args:
        setting: where they write; they are told of it.
        exact: this package's evaluate and predict by name.
        validates: whether there are validation metrics.
        lines: whether an epoch that no bar shows has a line.
    """
    if isinstance(callbacks, SafeList):
        return callbacks
    setting = setting or Setting(council.index == 0, workers=council.count)
    if council.index != 0:
        verbose = 0
    if verbose == "auto":
        verbose = 1 if sys.stdout.isatty() else 2
    shown = [EpochLines()] if verbose == 2 and lines else []
    own = given(callbacks)
    for callback in own:
        if hasattr(callback, "join"):
            callback.join(setting)
    return SafeList(
        [*own, *shown],
        council,
        setting,
        exact or {},
        validates,
        add_progbar=verbose == 1,
        verbose=verbose,
        epochs=epochs,
        steps=steps,
        model=model,
    )
