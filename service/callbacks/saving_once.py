"""What an author's callback asks of a model: saved once and whole, computed exactly."""

import contextlib
import functools
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

from service.storage import urls
from service.storage.store import Store

_HOOK = threading.local()
_SAVING = ("save", "save_weights", "export")
_COMPUTING = ("evaluate", "predict")


@contextlib.contextmanager
def hook(is_chief: bool, exact: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Has models saved, in this thread and block, by the chief alone, and computed exactly.

    Args:
        is_chief: whether this worker is it.
        exact: this package's `evaluate` and `predict` by name, which take the place of Keras's for a
            model whose strategy drives several devices in this process. With plain variables
            Keras's own are exact, and no other worker is asked.
    """
    before = getattr(_HOOK, "now", None)
    _HOOK.now = (is_chief, exact)
    try:
        yield
    finally:
        _HOOK.now = before


def install() -> None:
    """Puts the methods in place; outside a hook they are Keras's."""
    for name in (*_SAVING, *_COMPUTING):
        original = getattr(keras.Model, name)
        if not hasattr(original, "_samestep_original"):
            setattr(keras.Model, name, _chosen(name, original))


def _chosen(name: str, original: Any) -> Any:
    @functools.wraps(original)
    def chosen(model: Any, *args: Any, **kwargs: Any) -> Any:
        now = getattr(_HOOK, "now", None)
        if now is None:
            return original(model, *args, **kwargs)
        is_chief, exact = now
        if name in _COMPUTING:
            several = getattr(model._distribute_strategy, "num_replicas_in_sync", 1) > 1
            return exact[name](model, *args, **kwargs) if several else original(model, *args, **kwargs)
        return _whole(original, model, *args, **kwargs) if is_chief else None

    chosen._samestep_original = original  # type: ignore[attr-defined]  # marks it as in place
    return chosen


def _whole(original: Any, model: Any, filepath: Any, *args: Any, **kwargs: Any) -> Any:
    """Saves beside the target, or beside the process for a URL, and then puts the whole in place."""
    if not isinstance(filepath, str | os.PathLike):
        return original(model, filepath, *args, **kwargs)
    target = os.fspath(filepath)
    is_local = urls.is_folder(target)
    path = pathlib.Path(urls.folder_of(target)) if is_local else pathlib.PurePosixPath(target)
    if is_local:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=str(path.parent) if is_local else None) as folder:
        made = pathlib.Path(folder, path.name)
        result = original(model, str(made), *args, **kwargs)
        if is_local:
            _put_in_place(made, pathlib.Path(path))
        else:
            _upload(made, target)
    return result


def _put_in_place(made: pathlib.Path, path: pathlib.Path) -> None:
    if path.is_dir() and made.is_dir():
        old = made.with_name(made.name + ".old")
        path.rename(old)
        made.rename(path)
        shutil.rmtree(old)
    else:
        os.replace(made, path)


def _upload(made: pathlib.Path, url: str) -> None:
    folder, _, name = urls.normal(url).rpartition("/")
    store = Store(folder)
    if made.is_file():
        store.write(name, made.read_bytes())
        return
    files = sorted((file for file in made.rglob("*") if file.is_file()), key=lambda file: file.name == "saved_model.pb")
    for file in files:
        store.write(f"{name}/{file.relative_to(made).as_posix()}", file.read_bytes())
