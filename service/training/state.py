"""Everything a run must have back to go on: named tensors, and plain values beside them."""

import base64
import io
import logging
import math
import random
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from service import secrecy
from service.errors import ModelInvalid
from service.exact import keras_seams
from service.storage import pieces
from service.storage.pieces import Piece
from service.training import plain
from service.training.own_step import all_metrics
from service.training.rehearsal import optimizers

_COUNTER = re.compile(r"_\d+(?=/|_|$)")
_TOOLS = (  # what a callback works with, which the job makes again
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type, io.IOBase, logging.Logger),
    *(keras.Layer, keras.optimizers.Optimizer, keras.metrics.Metric, keras.losses.Loss, keras.callbacks.Callback),
    *(keras.utils.PyDataset, tf.data.Dataset, tf.Module, tf.summary.SummaryWriter, random.Random, np.random.RandomState),
)
_NOT_STATE = ("_model", "params", "validation_data")  # what a callback is given, not what it knows


class Snapshot(Mapping[str, np.ndarray]):
    """Tensors held as they are now, while training goes on; each is copied to the host when asked for.

    TensorFlow writes a changed variable to new memory while someone holds the old, so holding
    costs nothing and the tensors stay what they were.

    The variables are the same on every worker, so the workers share the writing. What callbacks
    keep may differ; the chief's counts.
    """

    def __init__(self, held: dict[str, Any]) -> None:
        self._held = held

    def share(self, worker: int, workers: int) -> list[Piece]:
        """Returns the pieces that a worker writes, so that together they hold everything once."""
        mine = pieces.share({name: size for name, size in self.sizes.items() if not _is_own(name)}, workers)[worker]
        if worker == 0:
            mine += [Piece(name, 0, count) for name, (count, _) in self.sizes.items() if _is_own(name)]
        return mine

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._held[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def checksums(self) -> dict[str, int]:
        """Returns of each tensor that all workers hold alike a number for its content: the sum of its 8-byte words."""
        return {name: _checksum(self[name]) for name in self._held if not _is_own(name)}

    def is_finite(self) -> bool:
        """Whether all numbers of the models and their optimizers are; a metric may rightly be infinite."""
        return all(_is_finite(self[name]) for name in self._held if not _is_own(name) and not name.startswith("metrics/"))

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Returns of each tensor how many elements it has and the bytes of one."""
        return {name: (math.prod(t.shape), np.dtype(_numpy_type(t)).itemsize) for name, t in self._held.items()}


def variables(models: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all variables of compiled models, each once, by a name that is its own.

    Weights, optimizers and noise of every model; metrics of the one that `fit` trains, which
    has no name, for a hand-written loop begins its metrics anew in every step.
    """
    named: dict[str, Any] = {"noise/0000/state": keras_seams.global_seed_generator().state}
    seen = {id(named["noise/0000/state"])}
    for key, model in models.items():
        metrics = [v for metric in all_metrics(model) for v in metric.variables] if key == "" else []
        trained = [v for optimizer in optimizers(model) for v in optimizer.variables]
        for kind, members in (("model", model.variables), ("optimizer", trained), ("metrics", metrics)):
            for i, variable in enumerate(members):
                if id(variable) not in seen:
                    # The place tells a variable; Keras numbers its automatic names by what the process made before.
                    named["/".join(filter(None, (key, kind, f"{i:04d}", _COUNTER.sub("", variable.path))))] = variable
                    seen.add(id(variable))
    return named


def snapshot(
    models: Mapping[str, Any], callbacks: list[Any], given: list[dict[str, Any]] | None = None
) -> tuple[Snapshot, dict[str, Any]]:
    """Returns the tensors and the plain values of the models and callbacks.

    Of a callback's plain attributes those count that training changed. What is still as `given`
    (one mapping a callback) the job will give it again, and that may be each worker's own.
    """
    mine = variables(models)
    held = {name: _hold(variable) for name, variable in mine.items()}
    names = {id(variable): name for name, variable in mine.items()}
    trained = {key: [names[id(v)] for v in model.optimizer._trainable_variables] for key, model in models.items()}
    values = []
    for i, callback in enumerate(callbacks):
        packed: dict[str, np.ndarray] = {}
        known = callback_state(callback)
        if given is not None and not hasattr(callback, "get_state"):
            known = {name: value for name, value in known.items() if name not in plain.unchanged(known, given[i])}
        state = plain.pack(known, f"callbacks/{i:02d}", packed)
        held |= packed
        values.append({"class": type(callback).__name__, "state": state})
    return Snapshot(held), {"callbacks": values, "random": _random_states(), "trained": trained}


def restore_models(models: Mapping[str, Any], state: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Puts a snapshot's tensors into the models' variables.

    An optimizer that has no variables yet is built for those that it trained then.

    Raises:
        ModelInvalid: the models' variables are others than the snapshot's, naming the first difference.
    """
    mine = variables(models)
    for key, names in state["trained"].items():
        if key in models and names and not models[key].optimizer.built and all(name in mine for name in names):
            models[key].optimizer.build([mine[name] for name in names])
    mine = variables(models)
    saved = {name: tensor for name, tensor in tensors.items() if not _is_own(name)}
    if mine.keys() != saved.keys():
        missing, extra = sorted(mine.keys() - saved.keys()), sorted(saved.keys() - mine.keys())
        raise ModelInvalid(
            f"The checkpoint is of another model: it lacks {missing[:3]} and has {extra[:3]} besides. "
            "Build the model as when the run began, or give the run a new name."
        )
    for name, variable in mine.items():
        if tuple(variable.shape) != saved[name].shape:
            raise ModelInvalid(
                f"The checkpoint's {name} has shape {saved[name].shape}, the model's {tuple(variable.shape)}. "
                "Build the model as when the run began, or give the run a new name."
            )
        if str(saved[name].dtype) != keras.backend.standardize_dtype(variable.dtype):
            raise ModelInvalid(
                f"The checkpoint's {name} has dtype {saved[name].dtype}, the model's {variable.dtype}. "
                "Build the model as when the run began, or give the run a new name."
            )
        variable.assign(saved[name])


def restore_callbacks(callbacks: list[Any], state: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Puts the callbacks' values back where the same class stands at the same place, and Python's and NumPy's generators.

    Called after the callbacks' on_train_begin, which would undo it.
    """
    for callback, saved in zip(callbacks, state["callbacks"], strict=False):
        if type(callback).__name__ == saved["class"]:
            set_callback_state(callback, plain.unpack(saved["state"], tensors))
    _set_random_states(state["random"])


def callback_state(callback: Any) -> dict[str, Any]:
    """Returns what a callback knows: its get_state() if it has one, else its plain attributes but secrets."""
    if hasattr(callback, "get_state"):
        return callback.get_state()
    known = {name: value for name, value in vars(callback).items() if name not in _NOT_STATE and plain.is_plain(value)}
    return {name: value for name, value in known.items() if not any(secrecy.found_in(name, value))}


def set_callback_state(callback: Any, state: dict[str, Any]) -> None:
    """Gives a callback what `callback_state` returned."""
    if hasattr(callback, "set_state"):
        callback.set_state(state)
    else:
        vars(callback).update(state)


def unkept(callback: Any) -> list[str]:
    """Returns the attributes of a callback, with their types, that no checkpoint can hold; tools such as functions are none."""
    if hasattr(callback, "get_state"):
        return []
    kept = {name: value for name, value in vars(callback).items() if name not in _NOT_STATE and not plain.is_plain(value)}
    return [f"{name} (a {type(value).__name__})" for name, value in kept.items() if not isinstance(value, _TOOLS)]


def _checksum(tensor: np.ndarray) -> int:
    content = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    words = len(content) // 8 * 8
    return (int(content[:words].view(np.uint64).sum()) + int.from_bytes(content[words:].tobytes(), "little")) % 2**64


def _is_finite(tensor: np.ndarray) -> bool:
    if "float" not in tensor.dtype.name:  # as bfloat16's kind does not tell
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        # Whatever is not finite makes the sum so, and a sum makes no array of its own.
        return bool(np.isfinite(tensor.sum())) or bool(np.isfinite(tensor).all())


def _is_own(name: str) -> bool:
    return name.startswith("callbacks/")


def _random_states() -> dict[str, Any]:
    """Returns the states of Python's and NumPy's global generators, from which an author's callback may draw."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, _text(np.array(words, "<u4")), gauss],
        "numpy": [_text(np.asarray(keys, "<u4")), int(position), int(has_gauss), float(cached)],
    }


def _set_random_states(states: dict[str, Any]) -> None:
    version, words, gauss = states["python"]
    random.setstate((version, tuple(_words(words).tolist()), gauss))
    keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state(("MT19937", _words(keys), position, has_gauss, cached))


def _text(words: np.ndarray) -> str:
    return base64.b64encode(words.tobytes()).decode()


def _words(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u4")


def _hold(variable: Any) -> Any:
    """Returns the variable's tensor as it is now."""
    value = variable.value
    if isinstance(value, tf.Variable) and not isinstance(value, tf.distribute.DistributedValues):
        return tf.raw_ops.ReadVariableOp(resource=value.handle, dtype=value.dtype)  # a third of what read_value takes
    return value.read_value() if hasattr(value, "read_value") else value


def _numpy_type(tensor: Any) -> Any:
    return tensor.dtype.as_numpy_dtype if hasattr(tensor.dtype, "as_numpy_dtype") else tensor.dtype


def history_of(model: Any) -> dict[str, list[float]]:
    """Returns the model's history as lists of plain floats."""
    history = getattr(model, "history", None)
    if not isinstance(history, keras.callbacks.History):
        return {}
    return {name: [np.asarray(value).tolist() for value in values] for name, values in history.history.items()}
