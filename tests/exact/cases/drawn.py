"""Small cases put together by chance, for a property that must hold for all of them."""

from typing import Any, NamedTuple

import hypothesis.strategies as st
import keras
import numpy as np
from keras import layers

from tests.exact.models import Case, uneven_weights

REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight")


class Drawn(NamedTuple):
    """What a case is made of; made anew in each process, from the same seeds.

    Attributes:
        steps: how many steps a sample has; 0 for samples that are vectors.
        weights: how many dimensions the sample weights have; 0 for none.
        is_masked: whether steps are masked, by the sample's length.
    """

    rows: int
    batch_size: int
    steps: int
    loss: str
    reduction: str
    weights: int
    is_masked: bool
    is_normalized: bool
    dropout: float
    penalty: float
    clips: bool
    seed: int

    def case(self) -> Case:
        """Returns the compiled model and its data."""
        random = np.random.RandomState(self.seed)
        shape = (self.rows, self.steps, 3) if self.steps else (self.rows, 3)
        x, y = random.randn(*shape), random.randn(*shape[:-1], 2)
        stack: list[Any] = []
        if self.is_masked and self.steps:
            x *= (np.arange(self.steps) < random.randint(1, self.steps + 1, (self.rows, 1)))[..., None]
            stack.append(layers.Masking())
        stack.append(layers.Dense(4, "tanh", kernel_regularizer=keras.regularizers.L2(self.penalty)))
        # A bias behind a normalization has rounding noise for a gradient, so the layer is without one.
        stack += [layers.Dense(3, use_bias=False), layers.BatchNormalization(momentum=0.7)] if self.is_normalized else []
        stack.append(layers.Dropout(self.dropout, seed=self.seed))
        model = keras.Sequential([keras.Input(shape[1:]), *stack, layers.Dense(2)])
        loss = getattr(keras.losses, self.loss)(reduction=self.reduction)
        optimizer = keras.optimizers.SGD(0.02, momentum=0.9, global_clipnorm=0.3 if self.clips else None)
        model.compile(optimizer, loss, metrics=["mae"], weighted_metrics=["mse"] if self.weights else None)
        weights = self._weights()
        kept = Case(model, dict(x=x, y=y, sample_weight=weights, batch_size=self.batch_size, epochs=2))
        if self.steps and weights is not None and weights.ndim == 1:
            # Stock Keras would line up one weight a sample with the steps, so it gets one for each step.
            kept = kept._replace(corrected={"sample_weight": np.repeat(weights[:, None], self.steps, 1)})
        return kept

    def _weights(self) -> np.ndarray | None:
        if not self.weights:
            return None
        shape = (self.rows, self.steps) if self.steps and self.weights == 2 else (self.rows,)
        weights = uneven_weights(int(np.prod(shape)), self.seed).reshape(shape)
        # Divided by a sum that is nearly zero, nothing is exact.
        return np.abs(weights) + 0.01 if self.reduction == "mean_with_sample_weight" else weights


CASES = st.builds(
    Drawn,
    rows=st.integers(1, 14),
    batch_size=st.integers(1, 9),
    steps=st.sampled_from([0, 0, 1, 4]),
    loss=st.sampled_from(["MeanSquaredError", "MeanAbsoluteError", "Huber", "LogCosh"]),
    reduction=st.sampled_from(REDUCTIONS),
    weights=st.integers(0, 2),
    is_masked=st.booleans(),
    is_normalized=st.booleans(),
    dropout=st.sampled_from([0.0, 0.4]),
    penalty=st.sampled_from([0.0, 0.1]),
    clips=st.booleans(),
    seed=st.integers(0, 99),
)
