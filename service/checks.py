"""What fit and its siblings are given, refused at the first line that can know."""

import operator
from typing import Any

import keras

from service.cluster.consensus import Council
from service.data.sources import Arrays
from service.errors import DataInvalid, ModelInvalid, RunInvalid


def check_model(model: Any, method: str) -> None:
    """Refuses what is no Keras 3 model."""
    if not isinstance(model, keras.Model):
        raise ModelInvalid(f"service.{method} got a {type(model).__name__}: expected a Keras 3 model (keras.Model).")


def check_compiled(model: Any, method: str) -> None:
    """Refuses a model without a loss to train by."""
    check_model(model, method)
    if not model.compiled:
        raise ModelInvalid(f'The model "{model.name}" is not compiled. Call model.compile(...) before {method}.')


def check_targets(model: Any, data: Arrays) -> None:
    """Refuses data without targets for a model whose loss compares with them; its own compute_loss may do without."""
    if data.like[1] is None and model.loss is not None and type(model).compute_loss is keras.Model.compute_loss:
        raise DataInvalid(
            f'{data.of}y is None, but the model "{model.name}" was compiled with loss={model.loss!r}, which compares with y. '
            "Give y, or compile with loss=None a model that adds its losses itself (add_loss)."
        )


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
    council.check_same(
        {f"the variable {v.path}": keras.ops.convert_to_numpy(v) for v in model.variables},
        "Build the model the same way on every worker: SameStep sets the seed of Keras, NumPy and Python before the job.",
    )
