"""What fit and its siblings are given, refused at the first line that can know."""

import dis
import functools
import operator
import types
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from service.cluster.consensus import Council
from service.data.sources import Arrays
from service.errors import DataInvalid, ModelInvalid, RunInvalid

_CHECKED: "weakref.WeakKeyDictionary[Any, int]" = weakref.WeakKeyDictionary()  # models, and which compile was looked at
_LIBRARIES = ("keras", "tensorflow", "numpy", "builtins", "functools", "service")


def check_model(model: Any, method: str) -> None:
    """Refuses what is no Keras 3 model."""
    if not isinstance(model, keras.Model):
        raise ModelInvalid(f"service.{method} got a {type(model).__name__}: expected a Keras 3 model (keras.Model).")


def check_compiled(model: Any, method: str) -> None:
    """Refuses a model without a loss to train by."""
    check_model(model, method)
    if not model.compiled:
        raise ModelInvalid(f'The model "{model.name}" is not compiled. Call model.compile(...) before {method}.')


def warn_if_nothing_trains(model: Any) -> None:
    """Warns, as Keras does, of a model whose weights are all frozen."""
    if model.built and not model.trainable_variables:
        warnings.warn(
            f'The model "{model.name}" has no weights to train: set `trainable = True` before its steps. Keras 3 trains what '
            "is trainable at the step; Keras 2 trained what was when compile was called.",
            stacklevel=4,
        )


def check_targets(model: Any, data: Arrays) -> None:
    """Refuses data without targets for a model whose loss compares with them; its own compute_loss may do without."""
    if data.like[1] is None and model.loss is not None and not _takes_own_loss(model):
        raise DataInvalid(
            f'{data.of}y is None, but the model "{model.name}" was compiled with loss={model.loss!r}, which compares with y. '
            "Give y, or compile with loss=None a model that adds its losses itself (add_loss)."
        )


def _takes_own_loss(model: Any) -> bool:
    own = type(model)
    return own.compute_loss is not keras.Model.compute_loss or own.train_step is not keras.Model.train_step


def check_losses(model: Any) -> None:
    """Refuses a loss or metric that uses a symbolic tensor of the model's construction, as old scripts do for a VAE.

    Raises:
        ModelInvalid: naming the function, the tensor, and what to write instead.
    """
    if _CHECKED.get(model) == id(model._loss_tracker):
        return
    compiled = model._compile_metrics
    metrics = [getattr(compiled, "_user_metrics", None), getattr(compiled, "_user_weighted_metrics", None)]
    for kind, given in (("loss", model.loss), ("metric", metrics)):
        for item in keras.tree.flatten(given):
            for name, tensor in _symbolic(item, set()):
                label = getattr(item, "__name__", None) or getattr(item, "name", type(item).__name__)
                raise ModelInvalid(
                    f'The {kind} "{label}" uses "{name}", a symbolic tensor of shape {tuple(tensor.shape)} from building the '
                    f"model. In Keras 3 a {kind} has no values but y_true and y_pred. Put the term into a layer that "
                    f"{name} passes through: `def call(self, {name}): self.add_loss(ops.mean(...)); return {name}`, or make "
                    f"{name} an output of the model, with a loss of its own."
                )
    _CHECKED[model] = id(model._loss_tracker)


def _symbolic(item: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yields (name, tensor) for each symbolic tensor that a function, or what it calls, or an object holds."""
    if id(item) in seen or isinstance(item, types.ModuleType | str | int | float | None):
        return
    seen.add(id(item))
    if isinstance(item, types.MethodType):
        yield from _symbolic(item.__self__, seen)
        yield from _symbolic(item.__func__, seen)
    elif isinstance(item, functools.partial):
        yield from _held({"func": item.func, **{f"argument {i}": v for i, v in enumerate(item.args)}, **item.keywords}, seen)
    elif isinstance(item, types.FunctionType):
        yield from _held(_reached(item), seen)
    elif hasattr(item, "__dict__") and not isinstance(item, type):
        if not isinstance(item, keras.Layer):  # a layer's own tensors are its variables
            yield from _held(vars(item), seen)
        wrapped = isinstance(item, keras.losses.Loss | keras.metrics.Metric | keras.Layer)
        for method in ("call", "update_state") if wrapped else ("call", "__call__"):
            yield from _symbolic(getattr(type(item), method, None), seen)


def _held(named: dict[str, Any], seen: set[int]) -> Iterator[tuple[str, Any]]:
    for name, value in named.items():
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        for part in list(parts)[:100]:
            if isinstance(part, keras.KerasTensor):
                yield name, part
            elif callable(part) and _is_own(part):
                yield from _symbolic(part, seen)


def _is_own(item: Any) -> bool:
    """Whether it is code of the author's, not of a library that holds no model's tensors."""
    home = getattr(item, "__module__", None) or type(item).__module__
    wrapper = isinstance(item, keras.losses.Loss | keras.metrics.Metric | functools.partial)
    return wrapper or home.partition(".")[0] not in _LIBRARIES


def _reached(function: types.FunctionType) -> dict[str, Any]:
    """Returns what a function finds by name besides its arguments: globals, what it closes over, defaults."""
    found = _globals_of(function.__code__, function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # nothing is there yet
            continue
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    return found | dict(zip(names[len(names) - len(defaults) :], defaults, strict=True)) | (function.__kwdefaults__ or {})


def _globals_of(code: types.CodeType, there: dict[str, Any]) -> dict[str, Any]:
    """Returns the globals that the code, or a function in it, reads; an attribute of the same name is none of them."""
    read = [i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    found = {name: there[name] for name in read if name in there}
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found |= _globals_of(inner, there)
    return found


def batch_size_of(batch_size: int | None) -> int:
    """Returns the rows of the global batch, Keras's 32 where none are given."""
    if batch_size is None:
        return 32
    try:
        rows = operator.index(batch_size)  # numpy's whole numbers too
    except TypeError:
        rows = 0
    if rows < 1 or isinstance(batch_size, bool):
        raise RunInvalid(f"batch_size={batch_size!r}: expected the rows of the global batch, a whole number, 1 or more.")
    return rows


def check_alike(model: Any, given: list[Arrays], council: Council) -> None:
    """Compares what all workers must hold alike: the data and the model's variables. Collective: every worker calls this.

    Raises:
        WorkersDiffer: on every worker, naming the argument or variable and the workers.
    """
    if council.count == 1:
        return
    arrays = {name: leaf for data in given for name, leaf in data.leaves()}
    council.check_same(
        arrays,
        "Give every worker the whole data set in the same order: load or draw it from a fixed seed.",
    )
    check_variables_alike(
        model,
        council,
        "Build the model the same way on every worker: SameStep sets the seed of Keras, NumPy and Python before the job.",
    )


def check_variables_alike(model: Any, council: Council, fix: str) -> None:
    """Compares the model's variables on all workers. Collective: every worker calls this.

    Raises:
        WorkersDiffer: on every worker, naming the variables and the workers, and the fix.
    """
    if council.count > 1:
        council.check_same({f"the variable {v.path}": keras.ops.convert_to_numpy(v) for v in model.variables}, fix)
