"""Saving and loading models with the author's own losses, metrics and layers."""

import hashlib
import importlib
import inspect
import json
import pathlib
import tempfile
from typing import Any

import keras

from service.errors import ModelInvalid
from service.exact import keras_seams
from service.storage import layout
from service.storage.store import Store

SUFFIX = ".keras"


def to_bytes(model: Any, suffix: str = SUFFIX) -> bytes:
    """Returns the bytes of a file that Keras saves: a .keras file holds architecture, weights, compile options, optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model" + suffix)
        if suffix == ".weights.h5":
            model.save_weights(path)
        else:
            model.save(path)
        return path.read_bytes()


def exported(model: Any) -> dict[str, bytes]:
    """Returns a SavedModel's files by path, the one without which the others are nothing last."""
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return dict(sorted(found.items(), key=lambda item: item[0] == "saved_model.pb"))


def describe(model: Any) -> dict[str, Any]:
    """Returns what loading the model needs besides its file: each class and function that is not Keras's own.

    Each has its home (module:qualname), the name it is registered under, and the SHA-256 of its
    source; `lacks` names what cannot come back and why; `noise` holds the states of the model's
    seed generators in order, which a .keras file does not.
    """
    custom: list[dict[str, Any]] = []
    lacks: list[str] = []
    for name, found in sorted(_custom_objects(model).items()):
        home = f"{found.__module__}:{found.__qualname__}"
        if "<locals>" in home or "<lambda>" in home:
            lacks.append(f"{name}: {home} is made inside a function; move it to the top of a module")
            continue
        custom.append({"home": home, "registered_name": name, "sha256": _source_hash(found)})
    noise = [generator.numpy().tolist() for generator in _generators(model)]
    return {"keras": keras.__version__, "custom": custom, "lacks": lacks, "noise": noise}


def load_model(url: str, **storage_options: Any) -> Any:
    """Returns the model that a run left, compiled, with its optimizer's state.

    Modules are imported from this process's own path, never from the run.

    Args:
        url: the run's folder, or its model.keras.

    Raises:
        ModelInvalid: something the model needs is not there, named with its home.
        FileNotFoundError: there is no model at the URL.
    """
    folder, _, name = url.rpartition("/") if url.endswith(SUFFIX) else (url, "", layout.model())
    store = Store(folder or ".", **storage_options)
    about = json.loads(store.read(name.removesuffix(SUFFIX) + ".json"))
    return _loaded(store.read(name), about, url)


def missing(model: Any) -> list[str]:
    """Returns why `load_model` would not bring the model back, found by saving and loading it; nothing if it would."""
    about = describe(model)
    with keras_seams.undisturbed():
        try:
            _loaded(to_bytes(model), about, "this run")
        except Exception as error:
            return about["lacks"] or [str(error).split("\n")[0]]
    return about["lacks"]


def _loaded(data: bytes, about: dict[str, Any], url: str) -> Any:
    objects: dict[str, Any] = {}
    for entry in about["custom"]:
        found = _import(entry["home"], url)
        objects[entry["registered_name"]] = found
        objects[found.__name__] = found
    with tempfile.TemporaryDirectory() as local:
        path = pathlib.Path(local, "model" + SUFFIX)
        path.write_bytes(data)
        try:
            model = keras.saving.load_model(path, custom_objects=objects)
        except Exception as error:
            lacks = "; ".join(about["lacks"]) or str(error)
            raise ModelInvalid(f"The model of {url} cannot be loaded: {lacks}") from error
    for generator, state in zip(_generators(model), about["noise"], strict=True):
        generator.assign(state)
    return model


def _custom_objects(model: Any) -> dict[str, Any]:
    """Returns the author's classes and functions in the model's configuration, by registered name."""
    found: dict[str, Any] = {}

    def visit(value: Any) -> None:
        if isinstance(value, keras.Layer | keras.losses.Loss | keras.metrics.Metric | keras.optimizers.Optimizer):
            add(type(value))
        elif inspect.isfunction(value):
            add(value)
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    def add(item: Any) -> None:
        if not item.__module__.startswith("keras."):
            found[keras.saving.get_registered_name(item)] = item

    for layer in model._flatten_layers():
        visit(layer)
        visit([getattr(layer, name, None) for name in _HOOKS])
    compiled = [model.optimizer, model.loss, getattr(model._compile_metrics, "_user_metrics", None)]
    visit([*compiled, getattr(model._compile_metrics, "_user_weighted_metrics", None)])
    return found


_HOOKS = ("activation", "recurrent_activation", "kernel_initializer", "kernel_regularizer", "kernel_constraint", "function")


def _generators(model: Any) -> list[Any]:
    return [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]


def _source_hash(item: Any) -> str | None:
    try:
        return hashlib.sha256(inspect.getsource(item).encode()).hexdigest()
    except OSError:
        return None


def _import(home: str, url: str) -> Any:
    module, _, name = home.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ModelInvalid(
            f"The model of {url} needs {home}, which this process cannot import ({error}). "
            "Put the code that trained it on the path; nothing is ever imported from the run itself."
        ) from error
    return found
