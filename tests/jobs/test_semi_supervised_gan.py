"""The GAN tells digits apart as stock Keras's does, and goes on where it was."""

import unittest.mock

import keras
import numpy as np
import pytest

from jobs.semi_supervised_gan import CLASSES, Options, batch_of, digits, train
from tests.jobs import stock

pytestmark = pytest.mark.processes

SHORT = {"epochs": 2, "batch_size": 360}  # 1437 // 360 = 3 steps an epoch, each saved at its end


def test_ten_labels_of_each_digit_are_known_and_no_held_out_digit_is_trained_by():
    data = digits(100)
    assert len(data.images) == 1797 - 360 and len(data.new_images) == 360
    assert np.bincount(data.labels[data.known]).tolist() == [10] * CLASSES
    with pytest.raises(ValueError, match="known=15: expected a multiple of 10"):
        Options(known=15)


def test_a_step_s_batch_is_a_function_of_seed_and_step_and_shows_no_unknown_label():
    data, options = digits(100), Options()
    one, again, next_one = (batch_of(data, options, 5, step) for step in (7, 7, 8))
    for mine, same, differs in zip(one, again, next_one, strict=True):
        np.testing.assert_array_equal(mine, same)
        assert mine is one.is_known or not np.array_equal(mine, differs)
    assert one.is_known.tolist() == [1] * 32 + [0] * 32
    assert (one.labels[32:].argmax(1) == 0).all()  # any digit stands there, and weighs 0


@pytest.mark.soak
def test_two_workers_tell_the_labels_of_new_digits_as_well_as_stock_keras_on_one(one, two, tmp_path):
    options = {"epochs": 3}
    stock_s = one.begin(stock.by_stock, train, str(tmp_path / "stock"), options)
    ours = two.call(stock.by_service, train, str(tmp_path / "ours"), options)
    mine, keras_s = ours[0]["returned"]["label_accuracy"], stock_s()[0]["returned"]["label_accuracy"]
    print(f"\nlabel accuracy {mine:.3f}, stock Keras {keras_s:.3f}")
    assert ours[1]["returned"] == ours[0]["returned"]
    assert mine > 0.8 and abs(mine - keras_s) < 0.04
    drawn = np.load(tmp_path / "ours" / "drawn.npy")
    assert drawn.shape == (64, 8, 8, 1) and drawn.std() > 0.3


@pytest.fixture(scope="module")
def whole(two, tmp_path_factory):
    return two.call(stock.by_service, train, str(tmp_path_factory.mktemp("whole")), SHORT)


@pytest.mark.soak
def test_interrupted_and_continued_it_ends_with_the_same_bits(two, whole, tmp_path):
    assert two.call(stock.by_service, train, str(tmp_path), SHORT, None, 5) == ["died", "died"]
    for mine, uncut in zip(two.call(stock.by_service, train, str(tmp_path), SHORT), whole, strict=True):
        assert mine["returned"] == uncut["returned"]
        for a, b in zip(mine["variables"], uncut["variables"], strict=True):
            np.testing.assert_array_equal(a, b)


def train_in_float64(worker):
    """Trains with 64 bits: with 32 a LeakyReLU's input so near to 0 that rounding decides its sign makes a step of 1e-4."""

    def wide(*args):
        batch = batch_of(*args)
        return batch._make(part.astype("float64") for part in batch)

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    with unittest.mock.patch("jobs.semi_supervised_gan.batch_of", wide):
        return train(worker)


@pytest.mark.soak
def test_one_worker_and_two_take_the_steps_of_stock_keras(one, two, tmp_path):
    (keras_s,) = one.call(stock.by_stock, train_in_float64, str(tmp_path / "stock"), SHORT)
    (alone,) = one.call(stock.by_service, train_in_float64, str(tmp_path / "one"), SHORT)
    together = two.call(stock.by_service, train_in_float64, str(tmp_path / "two"), SHORT)[0]
    far = stock.distance(alone, keras_s), stock.distance(together, keras_s)
    print(f"\nfrom stock Keras after 6 steps: one worker {far[0]:.1e}, two {far[1]:.1e}")
    assert max(far) < 1e-9
