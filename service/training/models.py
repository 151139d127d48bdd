"""Saving and loading models with the author's own losses, metrics and layers."""

import hashlib
import inspect
import pathlib
import tempfile
from typing import Any

import keras

from service.errors import Corrupt, ModelInvalid
from service.exact import keras_seams
from service.storage import documents, layout, receipts
from service.storage.store import Store
from service.training import archives, homes

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
        home = homes.home_of(found)
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
        Corrupt: a file is damaged, or is no such file as a run leaves.
        FileNotFoundError: there is no model at the URL.
    """
    folder, _, name = url.rpartition("/") if url.endswith(SUFFIX) else (url, "", layout.model())
    store = Store(folder or ".", **storage_options)
    beside = name.removesuffix(SUFFIX) + ".json"
    about = documents.read(store, beside)
    _check(about, store.url_of(beside))
    data = store.read(name)
    archives.check(data, store.url_of(name))
    return _loaded(data, about, url, store.url)


def missing(model: Any) -> list[str]:
    """Returns why `load_model` would not bring the model back, found by saving and loading it; nothing if it would."""
    about = describe(model)
    with keras_seams.undisturbed():
        try:
            _loaded(to_bytes(model), about, "this run", "memory://")
        except Exception as error:
            return about["lacks"] or [str(error).split("\n")[0]]
    return about["lacks"]


def _check(about: dict[str, Any], what: str) -> None:
    """Raises Corrupt unless what stands beside a model has the fields that `describe` gives it."""
    custom, lacks, noise = about.get("custom"), about.get("lacks"), about.get("noise")
    if not isinstance(custom, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("home"), str) and isinstance(entry.get("registered_name"), str)
        for entry in custom
    ):
        raise Corrupt(f"{what} is damaged: its custom is no list of homes and registered names.")
    if not isinstance(lacks, list) or not all(isinstance(lack, str) for lack in lacks):
        raise Corrupt(f"{what} is damaged: its lacks is no list of texts.")
    if not isinstance(noise, list) or not all(
        isinstance(state, list) and all(receipts.is_whole(word, 0, 2**32 - 1) for word in state) for state in noise
    ):
        raise Corrupt(f"{what} is damaged: its noise is no list of the states of generators.")


def _loaded(data: bytes, about: dict[str, Any], url: str, folder: str) -> Any:
    """Returns the model of a checked file; `folder` is the run's, from which nothing is imported."""
    objects: dict[str, Any] = {}
    for entry in about["custom"]:
        found = homes.load(entry["home"], entry["registered_name"], folder, url)
        objects[entry["registered_name"]] = found
        objects[found.__name__] = found
    with tempfile.TemporaryDirectory() as local:
        path = pathlib.Path(local, "model" + SUFFIX)
        path.write_bytes(data)
        try:
            model = keras.saving.load_model(path, custom_objects=objects, safe_mode=True)
            for generator, state in zip(_generators(model), about["noise"], strict=True):
                generator.assign(state)
        except Exception as error:
            lacks = "; ".join(about["lacks"]) or str(error)
            raise ModelInvalid(f"The model of {url} cannot be loaded: {lacks}") from error
    return model


def _custom_objects(model: Any) -> dict[str, Any]:
    """Returns the author's classes and functions in the model's configuration, by registered name."""
    found: dict[str, Any] = {}

    def visit(value: Any) -> None:
        if isinstance(value, homes.KINDS):
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
