"""What this Python, its packages and its variables must be."""

import importlib.metadata
import os
import platform

from service.errors import EnvironmentUnfit

PACKAGES = (
    "samestep",
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-tpu",
    "numpy",
    "ray",
    "tensorboard",
    "fsspec",
    "gcsfs",
)


def check() -> None:
    """Refuses an environment that would train with another Keras, or with none.

    Raises:
        EnvironmentUnfit: naming the variable or package, and what to set or install.
    """
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "").strip().lower()
    if legacy in ("1", "true"):
        raise EnvironmentUnfit(
            f"TF_USE_LEGACY_KERAS={os.environ['TF_USE_LEGACY_KERAS']} makes tf.keras Keras 2, which is another library; "
            "SameStep trains Keras 3 models. Unset the variable."
        )
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise EnvironmentUnfit(
            f"KERAS_BACKEND={backend}: SameStep runs Keras 3 on TensorFlow. Unset the variable, or set it to tensorflow."
        )
    if not any(version_of(name) for name in ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")):
        raise EnvironmentUnfit("TensorFlow is not installed: pip install 'samestep[cpu]' (or [gpu], [tpu]).")


def version_of(package: str) -> str | None:
    """Returns an installed package's version, or None; nothing is imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a run's numbers depend on."""
    found = {name: version_of(name) for name in PACKAGES}
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}
