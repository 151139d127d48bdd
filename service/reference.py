"""How a job reaches the workers: by its name, or by value from a notebook."""

import importlib
import inspect
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from service.errors import RunInvalid


def reference_of(job: Callable[..., Any]) -> str | None:
    """Returns "module:function", by which a worker imports the job; None where it has to be sent by value.

    A function of `__main__` is named by the module that was run (`python -m package.module`),
    or by its file, whose folder the workers have on their path.
    """
    if not callable(job):
        raise RunInvalid(f"service.train({job!r}, ...): expected a function of one argument, the worker.")
    module, name = getattr(job, "__module__", None), getattr(job, "__qualname__", "<locals>")
    if module is None or "<locals>" in name or "<lambda>" in name:
        return None
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        if spec is not None:
            module = spec.name.removesuffix(".__main__") if spec.name.endswith(".__main__") else spec.name
        elif getattr(main, "__file__", None):
            module = pathlib.Path(str(main.__file__)).stem
        else:
            return None
    return f"{module}:{name}"


def resolve(reference: str) -> Callable[..., Any]:
    """Returns the function of a "module:function" reference.

    Raises:
        RunInvalid: this process cannot import it.
    """
    module, _, name = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise RunInvalid(
            f"The job {reference} cannot be imported on a worker: {error}. Start it from the folder that holds the "
            "module, or give that folder to `ray job submit --working-dir`."
        ) from error
    return found


def import_paths() -> list[str]:
    """Returns the folders of this process's path that a worker on the same machine needs for the job's modules."""
    installed = {str(pathlib.Path(path)) for path in (sys.prefix, sys.base_prefix)}
    folders = [str(pathlib.Path(path or ".").resolve()) for path in sys.path]
    return [f for f in dict.fromkeys(folders) if pathlib.Path(f).is_dir() and not any(f.startswith(base) for base in installed)]


def source_of(job: Callable[..., Any]) -> str:
    """Returns the text of the job's module, or of the function alone where there is no file; empty where neither is known."""
    try:
        module = inspect.getmodule(job)
        return inspect.getsource(module if module is not None and getattr(module, "__file__", None) else job)
    except (OSError, TypeError):
        return ""
