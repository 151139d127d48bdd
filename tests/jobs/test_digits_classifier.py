"""The weights undo the imbalance, and the loss and the metric are what they say."""

import keras
import numpy as np
import pytest

from jobs.digits_classifier import (
    CLASSES,
    BalancedAccuracy,
    Options,
    SmoothedCrossentropy,
    balancing_weights,
    build,
    callbacks,
    imbalanced_digits,
)


def balanced_accuracy(classes: np.ndarray, guesses: np.ndarray) -> float:
    return float(np.mean([np.mean(guesses[classes == label] == label) for label in np.unique(classes)]))


@pytest.fixture(scope="module")
def trained():
    x, y, weights = imbalanced_digits(0.2)
    options = Options(epochs=6)
    keras.utils.set_random_seed(1)  # stock Keras shuffles by the global seed
    model = build(options, 7)
    history = model.fit(
        x,
        y,
        sample_weight=weights,
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_split=0.2,
        callbacks=callbacks(options),
        verbose=0,
    )
    return model, history.history


def test_the_upper_classes_keep_a_fifth():
    x, y, _ = imbalanced_digits(0.2)
    # scikit-learn has 182, 181, 179, 174 and 180 of the digits 5 to 9; a fifth of each, rounded up:
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 37, 37, 36, 35, 36]
    assert (x.shape, x.dtype, x.min(), x.max()) == ((1082, 8, 8, 1), np.float32, 0, 1)


def test_the_rows_held_out_hold_every_class():
    _, y, _ = imbalanced_digits(0.2)
    assert set(y[int(0.8 * len(y)) :]) == set(range(CLASSES))


def test_every_class_weighs_the_same():
    # 6 rows of class 0 and 2 of class 1 among 10 classes: 8 / (10 * 6) and 8 / (10 * 2),
    # so that each class weighs 8/10 in total.
    np.testing.assert_allclose(balancing_weights(np.array([0] * 6 + [1] * 2)), [8 / 60] * 6 + [8 / 20] * 2, rtol=1e-6)
    _, y, weights = imbalanced_digits(0.2)
    totals = np.bincount(y, weights)
    np.testing.assert_allclose(totals, len(y) / CLASSES, rtol=1e-6)


def test_the_cut_is_the_same_every_time():
    for one, again in zip(imbalanced_digits(0.3), imbalanced_digits(0.3), strict=True):
        np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize("kept", [0.0, -1.0, 1.5])
def test_a_fraction_that_is_none_is_refused(kept):
    with pytest.raises(ValueError, match=f"kept={kept}: expected a fraction"):
        Options(kept=kept)


def test_the_loss_is_one_value_per_row():
    y = np.array([3, 0])
    logits = np.zeros((2, CLASSES), "float32")
    logits[1, 0] = np.log(11)
    # Row 0: ten equal logits, ln 10 whatever the label. Row 1: p = 11/20 for its class and 1/20 for each
    # other; the label is 0.9 + 0.01 for its class and 0.01 for each of nine others.
    expected = [np.log(10), -(0.91 * np.log(11 / 20) + 9 * 0.01 * np.log(1 / 20))]
    loss = SmoothedCrossentropy(0.1).call(keras.ops.convert_to_tensor(y), keras.ops.convert_to_tensor(logits))
    assert tuple(loss.shape) == (2,)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_metric_over_batches_is_the_mean_recall_over_all_rows(weighted):
    random = np.random.RandomState(0)
    y = random.randint(0, 7, 100)  # classes 7 to 9 do not occur
    outputs = random.normal(size=(100, CLASSES)).astype("float32")
    outputs[:50, 2] += 2
    weights = random.uniform(size=100) if weighted else np.ones(100)
    metric = BalancedAccuracy()
    for rows in (slice(0, 30), slice(30, 31), slice(31, 100)):
        metric.update_state(y[rows], outputs[rows], sample_weight=weights[rows] if weighted else None)
    is_right = outputs.argmax(-1) == y
    recalls = [np.average(is_right[y == label], weights=weights[y == label]) for label in range(7)]
    np.testing.assert_allclose(metric.result(), np.mean(recalls), rtol=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_the_classifier_learns_the_rare_classes_as_well(trained):
    model, history = trained
    x, y, _ = imbalanced_digits(0.2)
    held_out = slice(int(0.8 * len(y)), None)
    guesses = model.predict(x[held_out], verbose=0).argmax(-1)
    assert balanced_accuracy(y[held_out], guesses) > 0.9
    assert history["val_loss"][-1] < history["val_loss"][0] - 0.2
    assert history.keys() >= {"val_balanced_accuracy", "val_weighted_accuracy", "learning_rate"}


def test_under_the_weights_accuracy_is_balanced_accuracy(trained):
    # Each class weighs N/10 in all, so the weighted accuracy is the mean over classes of their recalls.
    x, y, weights = imbalanced_digits(0.2)
    measured = trained[0].evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    assert measured["weighted_accuracy"] == pytest.approx(measured["balanced_accuracy"], abs=1e-6)


def test_the_classifier_is_saved_and_loaded_again_with_its_loss_and_metric(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.loss, SmoothedCrossentropy)
    assert loaded.loss.smoothing == 0.1
    x, y, weights = imbalanced_digits(0.2)
    kept, again = (m.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True) for m in (model, loaded))
    assert kept == again
