"""What only the chief does must not wait for the others."""

import contextlib
import threading
from collections.abc import Iterator

from service.errors import WorkersDiffer

_NOW = threading.local()


@contextlib.contextmanager
def on_the_chief(is_alone: bool) -> Iterator[None]:
    """Refuses, in this thread and block, what all workers must call together."""
    before = getattr(_NOW, "is_alone", False)
    _NOW.is_alone = is_alone
    try:
        yield
    finally:
        _NOW.is_alone = before


def check_together(what: str) -> None:
    """Refuses a call that all workers must make, where only the chief is called.

    Raises:
        WorkersDiffer: naming what to call instead.
    """
    if getattr(_NOW, "is_alone", False):
        raise WorkersDiffer(
            f"{what} was called in a callback that only the chief runs, but every worker must call it, or all wait for each "
            "other. Call the model's own evaluate or predict there, or let the callback run on every worker."
        )
