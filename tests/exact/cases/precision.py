"""What is computed in other numbers than float64, each with a law of its own."""

import keras
import numpy as np
from keras import layers

from tests.exact.cases.small import case, cases, numbers, positive_weights
from tests.exact.models import Case


def bfloat16() -> Case:
    """Matrix products in bfloat16, variables in float32."""
    return _half("bfloat16", numbers(2, seed=2))


def float16() -> Case:
    """Matrix products in float16 under Keras's own loss scale.

    The slope of the eighth row is about 2 * 300 / 16, which times the scale 2**15 is more than a float16 holds, 2**16: all
    replicas skip that step and halve the scale.
    """
    y = numbers(2, seed=2)
    y[7] = 300.0
    return _half("float16", y)


def pictures_turned() -> Case:
    """Pictures turned at random inside the model, which Keras can do in float32 only."""
    stack = [layers.RandomRotation(0.2, seed=2), layers.Flatten(), layers.Dense(1)]
    return case(keras.Sequential([keras.Input((5, 5, 2)), *stack]), numbers(5, 5, 2), numbers(1, seed=2))


CASES, _ = cases(__name__)  # in float32: no further from one device than four times what rounding does


def _half(dtype: str, y: np.ndarray) -> Case:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{dtype}")
    try:
        model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "tanh"), layers.Dense(2, dtype="float32")])
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        kept = case(model, numbers(4), y, "mse", optimizer, {"sample_weight": positive_weights()})
    finally:
        keras.config.set_dtype_policy(before)
    return kept._replace(computes_in=dtype)
