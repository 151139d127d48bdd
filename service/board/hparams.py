"""What tells runs apart in TensorBoard's table of hyperparameters."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorboard.plugins.hparams import api, summary
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS


def write_begin(values: Mapping[str, Any], trial: str) -> None:
    """Writes the hyperparameters of a run that begins.

    Args:
        values: numbers, text and booleans by name; what is none of these is left out.
        trial: the run's name.
    """
    plain = {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}
    tf.summary.experimental.write_raw_pb(api.hparams_pb(plain, trial_id=trial).SerializeToString(), step=0)


def write_end() -> None:
    """Writes that the run came to its end."""
    tf.summary.experimental.write_raw_pb(summary.session_end_pb(STATUS_SUCCESS).SerializeToString(), step=0)
