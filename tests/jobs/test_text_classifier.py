"""The docstrings hide where they are from, and a script in Keras 2's words trains as stock Keras does."""

import ast

import keras
import numpy as np
import pytest

from jobs.text_classifier import PACKAGES, PADDING, Options, batches, docstrings, documented, texts, train
from tests.jobs import stock

pytestmark = pytest.mark.processes

# The rate could be lowered by "val_acc" from the fourth epoch on.
FEW = {"docstrings": 200, "epochs": 3}


def test_docstrings_of_functions_classes_and_methods_are_read():
    source = '"""Module."""\ndef f():\n    "F"\nclass C:\n    "C"\n    def m(self):\n        "M"\n    n = 1\n'
    assert list(documented(ast.parse(source))) == ["F", "C", "M"]
    assert len(docstrings("keras", 20)) == 20 and docstrings("keras", 20) == docstrings("keras", 20)


def test_a_fifth_of_each_package_is_held_out_and_short_texts_are_padded_behind():
    training, validation = texts(Options(docstrings=50))
    assert np.bincount(training.y).tolist() == [40] * len(PACKAGES) and np.bincount(validation.y).tolist() == [10] * len(
        PACKAGES
    )
    for row in training.x:
        length = (row != PADDING).sum()
        assert length > 0 and (row[:length] != PADDING).all()


def test_the_batches_of_an_epoch_hold_every_docstring_once_in_an_order_of_its_own():
    training, _ = texts(Options(docstrings=50))
    endless = batches(training, 64, seed=5)
    epochs = [np.concatenate([next(endless)[0] for _ in range(3)]) for _ in range(2)]  # 160 = 64 + 64 + 32
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(training.x, axis=0))
    assert not np.array_equal(*epochs)


@pytest.mark.soak
def test_it_trains_as_stock_keras_and_keeps_the_best_model(one, tmp_path):
    (tmp_path / "stock").mkdir()
    (keras_s,) = one.call(stock.by_stock, train, str(tmp_path / "stock"), FEW)
    (ours,) = one.call(stock.by_service, train, str(tmp_path / "ours"), FEW)
    mine, expected = ours["returned"], keras_s["returned"]
    assert mine.keys() == expected.keys() >= {"acc", "val_acc", "learning_rate"}
    # Each validation of stock Keras begins behind what the one before had read ahead of the generator, so that only
    # its first is of all rows (keras 3.15.1).
    for name, values in mine.items():
        epochs = slice(1 if name.startswith("val_") else None)
        np.testing.assert_allclose(values[epochs], expected[name][epochs], rtol=1e-3, atol=1e-5, err_msg=name)
    print(f"\nval_acc {max(mine['val_acc']):.3f}, stock Keras {max(expected['val_acc']):.3f}")
    assert max(mine["val_acc"]) > 0.5  # one guess of four is right by chance
    assert abs(max(mine["val_acc"]) - max(expected["val_acc"])) < 0.08

    _, validation = texts(Options(**FEW))
    best = keras.saving.load_model(tmp_path / "ours" / "best.keras")
    assert best.evaluate(*validation, verbose=0, return_dict=True)["acc"] == pytest.approx(max(mine["val_acc"]), abs=1e-6)
