"""A classifier on an imbalanced cut of the digits, with weights that undo the imbalance.

Of the 1797 handwritten digits that scikit-learn ships, the upper five classes keep
only a fraction. Each row is weighted so that every class counts the same, and the
training stops when the loss on rows held out no longer falls.
"""

import dataclasses
import math
import sys
from typing import Any

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits

import service

CLASSES = 10
RARE = range(5, 10)


@dataclasses.dataclass(frozen=True)
class Options:
    """How the classifier is built and trained.

    Attributes:
        epochs: the last epoch, unless early stopping ends the training before.
        batch_size: rows in one step, over all workers together.
        filters: channels of the first convolution; the second has twice as many.
        learning_rate: the learning rate of Adam at the start.
        smoothing: the part of each label that is spread over all classes; 0 is plain cross-entropy.
        kept: the fraction of the classes 5 to 9 that is kept, more than 0 and at most 1.
        patience: epochs without a lower val_loss before the training stops; half as many halve the rate.
    """

    epochs: int = 60
    batch_size: int = 64
    filters: int = 16
    learning_rate: float = 0.01
    smoothing: float = 0.1
    kept: float = 0.2
    patience: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.kept <= 1:
            raise ValueError(f"kept={self.kept}: expected a fraction, more than 0 and at most 1.")


def imbalanced_digits(kept: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images [N, 8, 8, 1], their classes [N] and the weights [N] that undo the cut.

    The order is one fixed shuffle, so that the last rows, which validation_split
    takes, hold every class.
    """
    images, classes = load_digits(return_X_y=True)
    rows = [np.flatnonzero(classes == label) for label in range(CLASSES)]
    for label in RARE:
        rows[label] = rows[label][: math.ceil(kept * len(rows[label]))]
    chosen = np.random.RandomState(0).permutation(np.concatenate(rows))

    x = (images[chosen] / 16).astype("float32").reshape(-1, 8, 8, 1)
    y = classes[chosen].astype("int32")
    return x, y, balancing_weights(y)


def balancing_weights(y: np.ndarray) -> np.ndarray:
    """Returns [N] float32 with mean 1, under which every class has the same total."""
    counts = np.bincount(y, minlength=CLASSES)
    return (len(y) / (CLASSES * counts[y])).astype("float32")


@keras.saving.register_keras_serializable(package="samestep_jobs")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy, one value per row, with a little of the label spread over all classes."""

    def __init__(self, smoothing: float, name: str = "smoothed_crossentropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.smoothing = smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns [B] from classes [B] and logits [B, 10]."""
        own = ops.one_hot(ops.cast(y_true, "int32"), CLASSES, dtype=y_pred.dtype)
        target = (1 - self.smoothing) * own + self.smoothing / CLASSES
        return -ops.sum(target * ops.log_softmax(y_pred), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "smoothing": self.smoothing}


@keras.saving.register_keras_serializable(package="samestep_jobs")
class BalancedAccuracy(keras.metrics.Metric):
    """The mean over classes of the part of each that is recognised.

    Its state is counts, which add up over batches and workers; the division comes last.
    Classes that did not occur are left out of the mean.
    """

    def __init__(self, name: str = "balanced_accuracy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.right = self.add_weight(shape=(CLASSES,), initializer="zeros", name="right")
        self.seen = self.add_weight(shape=(CLASSES,), initializer="zeros", name="seen")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true = ops.cast(y_true, "int32")
        own = ops.one_hot(y_true, CLASSES, dtype=self.dtype)  # [B, 10]
        if sample_weight is not None:
            own = own * ops.expand_dims(ops.cast(sample_weight, self.dtype), -1)
        is_right = ops.cast(ops.argmax(y_pred, axis=-1) == y_true, self.dtype)
        self.right.assign_add(ops.sum(own * ops.expand_dims(is_right, -1), axis=0))
        self.seen.assign_add(ops.sum(own, axis=0))

    def result(self) -> Any:
        occurred = ops.sum(ops.cast(self.seen > 0, self.dtype))
        return ops.divide_no_nan(ops.sum(ops.divide_no_nan(self.right, self.seen)), occurred)


def build(options: Options, seed: int) -> keras.Model:
    """Returns the compiled classifier, from images [B, 8, 8, 1] to logits [B, 10]."""
    starts = (keras.initializers.HeUniform(seed=n) for n in np.random.SeedSequence(seed).generate_state(3).tolist())
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(options.filters, 3, padding="same", activation="relu", kernel_initializer=next(starts)),
            layers.MaxPooling2D(),
            layers.Conv2D(2 * options.filters, 3, activation="relu", kernel_initializer=next(starts)),
            layers.Flatten(),
            layers.Dense(CLASSES, kernel_initializer=next(starts)),
        ],
        name="digits_classifier",
    )
    model.compile(
        keras.optimizers.Adam(options.learning_rate),
        loss=SmoothedCrossentropy(options.smoothing),
        metrics=[BalancedAccuracy()],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="weighted_accuracy")],
    )
    return model


def callbacks(options: Options) -> list[keras.callbacks.Callback]:
    """Returns what lowers the learning rate, and later ends the training, when val_loss no longer falls."""
    return [
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=max(1, options.patience // 2), mode="min"),
        keras.callbacks.EarlyStopping(
            "val_loss", min_delta=0.001, patience=options.patience, mode="min", restore_best_weights=True
        ),
    ]


def train(worker: service.Worker) -> keras.callbacks.History:
    """Trains the classifier; every worker calls this."""
    options = Options(**worker.options)
    x, y, weights = imbalanced_digits(options.kept)
    with worker.strategy.scope():
        model = build(options, worker.run.seed or 0)
    return worker.fit(
        model,
        x,
        y,
        sample_weight=weights,
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_split=0.2,
        callbacks=callbacks(options),
    )


if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="digits-classifier"))
