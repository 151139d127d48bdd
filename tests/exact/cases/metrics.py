"""Metrics: those that add up over samples, those that do not, and those of an author."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.exact.cases.small import ROWS, case, cases, dense, labels, lengths, numbers, positive_weights, rare, regression
from tests.exact.models import Case, LargestError, uneven_weights


@rare
def functions() -> Case:
    """Functions of a sample, of a step and of the whole batch, the last of which no replica can add to."""

    def of_a_sample(y_true: Any, y_pred: Any) -> Any:
        return ops.max(ops.abs(y_true - y_pred), axis=-1)

    def of_a_step(y_true: Any, y_pred: Any) -> Any:
        return ops.abs(y_true - y_pred)

    def of_a_batch(y_true: Any, y_pred: Any) -> Any:
        return ops.std(y_pred - y_true)

    return regression(metrics=[of_a_sample, of_a_step, of_a_batch], weighted_metrics=[of_a_sample])


@rare
def names_of_functions() -> Case:
    """Names that Keras resolves by the shapes of the data."""
    fit = {"sample_weight": uneven_weights(ROWS)}
    return case(
        *(dense(3, "softmax"), numbers(4), labels(3), "sparse_categorical_crossentropy"),
        fit=fit,
        metrics=["acc", "sparse_categorical_crossentropy"],
        weighted_metrics=["accuracy"],
    )


@rare
def of_errors() -> Case:
    """Stock classes of regression, of which R2 and the root are no sums of what they report."""

    def made() -> list[Any]:
        return [
            keras.metrics.RootMeanSquaredError(),
            keras.metrics.R2Score(),
            keras.metrics.R2Score("variance_weighted_average", name="r2_weighted"),
            keras.metrics.MeanAbsolutePercentageError(),
            keras.metrics.CosineSimilarity(),
            keras.metrics.LogCoshError(),
        ]

    return regression(metrics=made(), weighted_metrics=made(), fit={"sample_weight": positive_weights()})


@rare
def correlations() -> Case:
    """Correlations of each sample's targets and predictions."""
    chosen = [keras.metrics.PearsonCorrelation(), keras.metrics.ConcordanceCorrelation()]
    return regression(metrics=chosen, weighted_metrics=["mape", "msle"], outputs=3)


def of_thresholds() -> Case:
    """Areas, rates at other rates, and counts, all made of histograms over thresholds."""

    def made() -> list[Any]:
        return [
            keras.metrics.AUC(num_thresholds=20, name="roc"),
            keras.metrics.AUC(num_thresholds=20, curve="PR", name="pr"),
            keras.metrics.Precision(thresholds=[0.3, 0.5], name="precision"),
            keras.metrics.Recall(name="recall"),
            keras.metrics.SpecificityAtSensitivity(0.5, num_thresholds=10, name="specificity"),
            keras.metrics.PrecisionAtRecall(0.5, num_thresholds=10, name="precision_at_recall"),
            keras.metrics.FalsePositives(name="false_positives"),
        ]

    fit = {"sample_weight": positive_weights()}
    return case(
        *(dense(1, "sigmoid"), numbers(4), labels(2)[:, None], "binary_crossentropy"),
        fit=fit,
        metrics=made(),
        weighted_metrics=made(),
    )


@rare
def of_several_labels() -> Case:
    """An area for each label, and F-scores, one of which is a vector."""
    chosen = [
        keras.metrics.AUC(num_thresholds=20, multi_label=True, num_labels=3, name="auc"),
        keras.metrics.F1Score(threshold=0.5),
        keras.metrics.FBetaScore(average="macro", beta=2.0, threshold=0.4),
        keras.metrics.BinaryAccuracy(threshold=0.4),
    ]
    return case(dense(3, "sigmoid"), numbers(4), labels(2, 3), "binary_crossentropy", metrics=chosen)


@rare
def of_classes() -> Case:
    """Intersections over unions, from a matrix of counts."""
    y = np.eye(3)[labels(3)]
    chosen = [keras.metrics.OneHotMeanIoU(3), keras.metrics.OneHotIoU(3, [0, 2]), keras.metrics.F1Score("weighted")]
    fit = {"sample_weight": positive_weights()}
    return case(
        *(dense(3, "softmax"), numbers(4), y, "categorical_crossentropy"),
        fit=fit,
        metrics=chosen,
        weighted_metrics=[keras.metrics.OneHotMeanIoU(3, name="weighted_iou"), "accuracy"],
    )


@rare
def of_segments() -> Case:
    """MeanIoU over the steps of sequences, with an ignored class."""
    model = keras.Sequential([keras.Input((5, 3)), layers.Dense(4, "softmax")])
    iou = keras.metrics.MeanIoU(4, ignore_class=3, sparse_y_pred=False)
    return case(model, numbers(5, 3), labels(4, 5), "sparse_categorical_crossentropy", metrics=[iou])


class Spread(keras.metrics.Metric):
    """An author's class that adds up: the spread of the errors, from their sum, their squares and their number."""

    def __init__(self, name: str = "spread") -> None:
        super().__init__(name=name)
        self.sums = self.add_variable((3,), "zeros", name="sums")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        errors = ops.mean(y_pred - ops.cast(y_true, y_pred.dtype), axis=-1)
        weight = ops.ones_like(errors) if sample_weight is None else ops.reshape(sample_weight, (-1,))
        added = [ops.sum(weight), ops.sum(weight * errors), ops.sum(weight * ops.square(errors))]
        self.sums.assign_add(ops.cast(ops.stack(added), self.sums.dtype))

    def result(self) -> Any:
        count, total, squares = ops.unstack(self.sums)
        return squares / count - ops.square(total / count)


class Smoothed(keras.metrics.Metric):
    """An author's class that does not add up: a running average over batches, with a state that starts at one."""

    def __init__(self) -> None:
        super().__init__(name="smoothed")
        self.average = self.add_variable((), "ones", name="average")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        error = ops.cast(ops.mean(ops.abs(y_true - y_pred)), self.dtype)
        self.average.assign(0.9 * self.average + 0.1 * error)

    def result(self) -> Any:
        return 1.0 * self.average

    def reset_state(self) -> None:
        self.average.assign(1.0)


class Doubled(keras.metrics.Mean):
    """An author's subclass of a stock class, with an update of its own."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        super().update_state(2.0 * ops.mean(ops.abs(y_true - y_pred), axis=-1), sample_weight)


@rare
def of_an_author() -> Case:
    """Classes of an author: one that adds up, one that averages, one that takes the largest, one derived from Mean."""
    chosen = [Spread(), Smoothed(), LargestError(), Doubled("doubled")]
    fit = {"sample_weight": positive_weights()}
    return regression(metrics=chosen, weighted_metrics=[Spread("spread_of_weighted"), Doubled("more")], fit=fit)


@rare
def under_a_mask() -> Case:
    """Metrics of masked steps: Keras's function and class, with and without weights, and an area."""
    ids = np.where(lengths(6), 1 + labels(8, 6), 0)
    embed = layers.Embedding(9, 3, mask_zero=True)
    model = keras.Sequential([keras.Input((6,), dtype="int32"), embed, layers.Dense(1, "sigmoid")])
    return case(
        *(model, ids, labels(2, 6, 1, seed=4), "binary_crossentropy"),
        fit={"sample_weight": positive_weights(6)},
        metrics=["accuracy", keras.metrics.MeanSquaredError(name="squares"), keras.metrics.AUC(num_thresholds=9, name="auc")],
        weighted_metrics=["mae"],
    )


def of_several_outputs() -> Case:
    """Metrics by output, some of which have none, with stock, scalar and an author's."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(5, "tanh")(inputs)
    outputs = [layers.Dense(size, activation, name=name)(hidden) for name, size, activation in _OUTPUTS]
    y = [numbers(1, seed=2), labels(3), labels(2, 1)]
    return case(
        *(keras.Model(inputs, outputs), numbers(4), y),
        ["mse", "sparse_categorical_crossentropy", "binary_crossentropy"],
        fit={"sample_weight": [uneven_weights(ROWS), positive_weights(), positive_weights()]},
        metrics={"a": ["mae", Spread()], "c": [keras.metrics.AUC(num_thresholds=9, name="auc"), "accuracy"]},
        weighted_metrics={"b": ["accuracy"]},
    )


_OUTPUTS = (("a", 1, None), ("b", 3, "softmax"), ("c", 1, "sigmoid"))


@rare
def of_validation() -> Case:
    """The same metrics over validation rows, weighted by weights of their own."""
    held_out = (numbers(4, seed=5)[:5], numbers(2, seed=6)[:5], np.array([0.1, 0.0, 3.0, 50.0, 1.0]))
    fit = {"sample_weight": positive_weights(), "validation_data": held_out, "validation_batch_size": 4}
    return regression(metrics=["mae", LargestError()], weighted_metrics=["mse", keras.metrics.R2Score()], fit=fit)


CASES, RARE = cases(__name__)
