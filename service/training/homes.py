"""Where an author's classes and functions live, and how a model's come back from there."""

import importlib
import importlib.util
import inspect
import os
import sys
from typing import Any

import keras
import tensorflow as tf

from service.errors import ModelInvalid
from service.storage import urls

# What holds no author's code. Of TensorFlow only the mathematics comes back, as an activation or a loss.
_LIBRARIES = {
    *sys.stdlib_module_names,
    *("keras", "numpy", "ml_dtypes", "h5py", "ray", "tenacity", "tensorboard", "google", "fsspec", "gcsfs", "s3fs"),
    *("service", "pip", "setuptools", "pkg_resources"),
}
KINDS = (keras.Layer, keras.losses.Loss, keras.metrics.Metric, keras.optimizers.Optimizer)


def home_of(item: Any) -> str:
    """Returns module:qualname of a class or function."""
    return f"{item.__module__}:{item.__qualname__}"


def load(home: str, registered_name: str, folder: str, url: str) -> Any:
    """Returns the class or function of that home, from this process's own path.

    What a run's model.json says is not trusted: only a function, or a class of a kind that a
    model is made of, comes back, under the very name it gives itself; nothing of Python's and
    this package's own libraries, whose functions a model's layers could call with arguments of
    the model's choice, and nothing that lies in the run's folder.

    Raises:
        ModelInvalid: it is not there, or no such thing.
    """
    module, _, name = home.partition(":")
    parts, names = module.split("."), name.split(".")
    if not all(part.isidentifier() for part in (*parts, *names)):
        raise ModelInvalid(f"The model of {url} needs {home!r:.200}, which is no module:name.")
    if parts[0] in _LIBRARIES or "__main__" in parts[1:]:
        raise ModelInvalid(f"The model of {url} needs {home}, which is no author's code. Nothing of it is loaded.")
    try:
        _check_outside(parts, folder, url)
        found: Any = importlib.import_module(module)
        for part in names:
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ModelInvalid(
            f"The model of {url} needs {home}, which this process cannot import ({error}). "
            "Put the code that trained it on the path; nothing is ever imported from the run itself."
        ) from error
    if not _is_of_a_model(found) or home_of(found) != home or keras.saving.get_registered_name(found) != registered_name:
        raise ModelInvalid(
            f'The model of {url} needs {home} as "{registered_name}", and what is there is no layer, loss, metric, optimizer '
            "or function of this name. Put the code that trained it on the path."
        )
    return found


def _is_of_a_model(found: Any) -> bool:
    if inspect.isclass(found):
        return issubclass(found, KINDS)
    is_mathematics = any(found is function for part in (tf.nn, tf.math) for function in vars(part).values())
    return inspect.isfunction(found) and (is_mathematics or not found.__module__.startswith("tensorflow."))


def _check_outside(parts: list[str], folder: str, url: str) -> None:
    """Raises ModelInvalid where a module, or a package that it is in, lies in the run's folder: before any of it runs."""
    if not urls.is_folder(folder):
        return
    root = os.path.realpath(urls.folder_of(folder))
    for i in range(len(parts)):
        name = ".".join(parts[: i + 1])
        spec = None if name == "__main__" else importlib.util.find_spec(name)  # imports the packages above, which were checked
        if spec is None:
            return
        for place in (spec.origin, *(spec.submodule_search_locations or ())):
            if place and os.path.commonpath([root, os.path.realpath(place)]) == root:
                raise ModelInvalid(
                    f"The model of {url} needs {name}, which lies in the run itself. Nothing is imported from there."
                )
