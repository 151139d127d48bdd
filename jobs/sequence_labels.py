"""Puts the vowels back into English words: a label for every letter, in words of any length.

The words are those of docstrings of installed packages, each vowel hidden by a star:
"r*g*l*r*z*d". A recurrent network reads a word in both directions and says which vowel
each star was. Short words are padded and the padding masked; weights of [words, letters]
count the stars alone.
"""

import dataclasses
import re
import sys
from collections import Counter

import keras
import numpy as np

import service
from jobs.text_classifier import PACKAGES, docstrings

LETTERS = "*bcdfghjklmnpqrstvwxyz"  # what is shown; y is taken for a consonant
VOWELS = "aeiou"  # what is asked
LONGEST = 12


@dataclasses.dataclass(frozen=True)
class Options:
    """How the network is built and trained.

    Attributes:
        epochs: the last epoch; the same name with more epochs trains the rest.
        batch_size: words in one step, over all workers together.
        docstrings: how many docstrings of each package the words are from.
        units: the size of the network's memory in each direction.
        learning_rate: the learning rate of Adam.
    """

    epochs: int = 10
    batch_size: int = 64
    docstrings: int = 600
    units: int = 48
    learning_rate: float = 0.01


def words(count: int) -> list[str]:
    """Returns the words with vowels that the docstrings have more than once, in one fixed shuffle."""
    text = " ".join(part for package in PACKAGES for part in docstrings(package, count))
    found = Counter(re.findall(rf"\b[a-z]{{4,{LONGEST}}}\b", text))
    kept = sorted(word for word, times in found.items() if times > 1 and set(word) & set(VOWELS))
    return [kept[place] for place in np.random.RandomState(0).permutation(len(kept))]


def encode(words: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what is shown [N, 12, 22] one-hot, the vowels [N, 12] and the weights [N, 12]: 1 where a vowel is hidden.

    Padding is a row of zeros, which the model's Masking layer knows.
    """
    x = np.zeros((len(words), LONGEST, len(LETTERS)), "float32")
    y = np.zeros((len(words), LONGEST), "int32")
    weights = np.zeros((len(words), LONGEST), "float32")
    for row, word in enumerate(words):
        for place, letter in enumerate(word):
            x[row, place, max(0, LETTERS.find(letter))] = 1
            if letter in VOWELS:
                y[row, place], weights[row, place] = VOWELS.index(letter), 1
    return x, y, weights


def build(options: Options) -> keras.Model:
    """Returns the compiled network, from words [B, 12, 22] to probabilities of the vowels [B, 12, 5]."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((LONGEST, len(LETTERS))),
            layers.Masking(),
            layers.Bidirectional(layers.GRU(options.units, return_sequences=True)),
            layers.Dropout(0.3),
            layers.Dense(len(VOWELS), "softmax"),
        ],
        name="sequence_labels",
    )
    model.compile(
        keras.optimizers.Adam(options.learning_rate, global_clipnorm=1.0),
        loss="sparse_categorical_crossentropy",
        weighted_metrics=["sparse_categorical_accuracy"],
    )
    return model


def put_back(model: keras.Model, words: list[str]) -> list[str]:
    """Returns the words as the model thinks they are."""
    guesses = keras.ops.convert_to_numpy(model(encode(words)[0])).argmax(-1)
    return [
        "".join(VOWELS[guess] if letter in VOWELS else letter for letter, guess in zip(word, row, strict=False))
        for word, row in zip(words, guesses, strict=True)
    ]


def train(worker: service.Worker) -> keras.callbacks.History:
    """Trains the network, and shows some of the words held out; every worker calls this."""
    options = Options(**worker.options)
    found = words(options.docstrings)
    x, y, weights = encode(found)
    with worker.strategy.scope():
        model = build(options)
    history = worker.fit(
        model, x, y, sample_weight=weights, batch_size=options.batch_size, epochs=options.epochs, validation_split=0.2
    )
    if worker.is_chief:
        shown = found[-8:]  # validation_split takes the last rows
        print("  ".join(f"{word} -> {guess}" for word, guess in zip(shown, put_back(model, shown), strict=True)), flush=True)
    return history


if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="sequence-labels"))
