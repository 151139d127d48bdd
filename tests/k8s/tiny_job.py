"""A job's command without TensorFlow, so that its options are known at once."""

import dataclasses
import sys
from typing import Any

import service


@dataclasses.dataclass(frozen=True)
class Options:
    """What the job can be told.

    Attributes:
        epochs: the last epoch.
        note: any text.
    """

    epochs: int = 3
    note: str = "none given"


def train(worker: Any) -> None:
    """Never called: a manifest only asks for the options."""


if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="tiny"))
