"""Padding and weights leave the stars alone to count, and vowels are put back as stock Keras puts them."""

import numpy as np
import pytest

from jobs.sequence_labels import LETTERS, LONGEST, VOWELS, encode, train, words
from tests.jobs import stock

pytestmark = pytest.mark.processes


def test_a_word_shows_its_consonants_hides_its_vowels_and_is_padded_with_zeros():
    x, y, weights = encode(["mean"])
    assert "".join(LETTERS[letter] for letter in x[0, :4].argmax(-1)) == "m**n"
    assert x[0, 4:].sum() == 0 and x[0, :4].sum() == 4
    assert weights[0].tolist() == [0, 1, 1, 0] + [0] * (LONGEST - 4)
    assert [VOWELS[vowel] for vowel in y[0, 1:3]] == ["e", "a"]


def test_the_words_are_real_ones_each_once_and_the_same_every_time():
    found = words(60)
    assert len(found) == len(set(found)) > 500 and {"array", "function"} < set(found)
    assert found == words(60) and all(3 < len(word) <= LONGEST for word in found)


def test_the_vowels_are_put_back_as_stock_keras_puts_them(one, tmp_path):
    options, fit = {"epochs": 3, "docstrings": 150}, {"shuffle": False}
    (keras_s,) = one.call(stock.by_stock, train, str(tmp_path / "stock"), options, fit)
    (ours,) = one.call(stock.by_service, train, str(tmp_path / "ours"), options, fit)
    mine, expected = ours["returned"], keras_s["returned"]
    assert mine.keys() == expected.keys()
    for name, values in mine.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, err_msg=name)
    print(f"\n{mine['val_sparse_categorical_accuracy'][-1]:.3f} of the hidden vowels")
    assert mine["val_sparse_categorical_accuracy"][-1] > 0.42  # always saying "e" is right for a third
