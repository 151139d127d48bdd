"""The callbacks of one call to fit or its siblings, in Keras's order."""

import sys
from typing import Any

import keras

from service.callbacks.progress import EpochLines
from service.cluster.consensus import Council

_WRITERS = (
    *(keras.callbacks.ModelCheckpoint, keras.callbacks.CSVLogger, keras.callbacks.TensorBoard),
    *(keras.callbacks.BackupAndRestore, keras.callbacks.RemoteMonitor),
)


def stateful(callbacks: Any, of_the_run: list[Any]) -> list[Any]:
    """Returns the callbacks whose state is the run's, in Keras's order: the author's, History, the run's."""
    own = keras.tree.flatten(callbacks) if callbacks else []
    history = [] if any(isinstance(callback, keras.callbacks.History) for callback in own) else [keras.callbacks.History()]
    return [*own, *history, *of_the_run]


def listed(
    model: Any, callbacks: Any, verbose: Any, council: Council, epochs: int, steps: int | None, lines: bool = False
) -> keras.callbacks.CallbackList:
    """Returns Keras's list of the callbacks; the chief's shows the progress, a bar on a terminal, else lines.

    Those that write files act on the chief alone: on every worker they would tear each other's files.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    if council.index != 0:
        verbose = 0
    if verbose == "auto":
        verbose = 1 if sys.stdout.isatty() else 2
    shown = [EpochLines()] if verbose == 2 and lines else []
    own = keras.tree.flatten(callbacks) if callbacks else []
    if council.index != 0:
        own = [callback for callback in own if not isinstance(callback, _WRITERS)]
    return keras.callbacks.CallbackList(
        [*own, *shown], add_progbar=verbose == 1, verbose=verbose, epochs=epochs, steps=steps, model=model
    )
