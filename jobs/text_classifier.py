"""A small transformer that tells which package a docstring is from.

The text is the docstrings of installed packages, read from their files without
importing them, without the packages' own names. Training is written as a script of
Keras 2 would have it: generators of batches, fit_generator and callbacks on "val_acc".
"""

import ast
import dataclasses
import importlib.util
import itertools
import pathlib
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

import service

PACKAGES = ("numpy", "sklearn", "keras", "ray")
TOO_TELLING = {*PACKAGES, "np", "scikit", "learn", "tf", "tensorflow", "torch", "jax"}
PADDING, UNKNOWN = 0, 1


@dataclasses.dataclass(frozen=True)
class Options:
    """How the classifier is built and trained.

    Attributes:
        epochs: the last epoch, unless early stopping ends the training before.
        batch_size: docstrings in one step, over all workers together.
        docstrings: how many docstrings of each package are read.
        words: how many words of each docstring are looked at.
        vocabulary: how many words are known; the others count as one.
        width: numbers a word is described by.
        heads: heads of the attention.
        learning_rate: the learning rate of Adam at the start.
    """

    epochs: int = 8
    batch_size: int = 64
    docstrings: int = 600
    words: int = 48
    vocabulary: int = 2000
    width: int = 16
    heads: int = 2
    learning_rate: float = 0.002


def docstrings(package: str, count: int) -> list[str]:
    """Returns docstrings of a package's functions and classes, from its files in one fixed shuffle."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed; its docstrings are the data.")
    root = pathlib.Path(spec.origin).parent
    files = sorted(file for file in root.rglob("*.py") if "tests" not in file.parts)
    random.Random(0).shuffle(files)
    found = (text for file in files for text in documented(ast.parse(file.read_text(encoding="utf-8"))) if len(text) > 100)
    return list(itertools.islice(found, count))


def documented(node: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Yields the docstrings of a module's functions and classes, and of the classes' methods."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef | ast.ClassDef):
            if text := ast.get_docstring(part):
                yield text
            if isinstance(part, ast.ClassDef):
                yield from documented(part)


class Texts(NamedTuple):
    """Docstrings as numbers of words [N, words], padded behind, and the numbers of their packages [N]."""

    x: np.ndarray
    y: np.ndarray


def texts(options: Options) -> tuple[Texts, Texts]:
    """Returns what to train by, and the last fifth of each package's docstrings, in one fixed shuffle each."""
    read = [
        [
            [word for word in re.findall("[a-z]+", text.lower()) if word not in TOO_TELLING]
            for text in docstrings(package, options.docstrings)
        ]
        for package in PACKAGES
    ]
    ends = [len(of_package) * 4 // 5 for of_package in read]
    counts = Counter(word for end, of_package in zip(ends, read, strict=True) for text in of_package[:end] for word in text)
    numbers = {word: number for number, (word, _) in enumerate(counts.most_common(options.vocabulary), UNKNOWN + 1)}

    def encoded(parts: list[list[list[str]]]) -> Texts:
        rows = [(text, label) for label, part in enumerate(parts) for text in part]
        x = np.full((len(rows), options.words), PADDING, "int32")
        for row, (text, _) in zip(x, rows, strict=True):
            row[: len(text)] = [numbers.get(word, UNKNOWN) for word in text[: options.words]]
        order = np.random.RandomState(0).permutation(len(rows))
        return Texts(x[order], np.array([label for _, label in rows], "int32")[order])

    return (
        encoded([part[:end] for part, end in zip(read, ends, strict=True)]),
        encoded([part[end:] for part, end in zip(read, ends, strict=True)]),
    )


def batches(data: Texts, batch_size: int, seed: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches for ever; with a seed, each pass is in another order."""
    for number in itertools.count():
        order = np.arange(len(data.y)) if seed is None else np.random.RandomState([seed, number]).permutation(len(data.y))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield data.x[rows], data.y[rows]


@keras.saving.register_keras_serializable(package="samestep_jobs")
class Places(keras.layers.Layer):
    """Adds to each word what is learned of its place; the mask goes on."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.places = self.add_weight(shape=shape[1:], initializer="zeros", name="places")

    def call(self, inputs: Any) -> Any:
        return inputs + self.places


def build(options: Options) -> keras.Model:
    """Returns the compiled classifier, from numbers of words [B, words] to probabilities [B, packages]."""
    layers = keras.layers
    words = keras.Input((options.words,), dtype="int32", name="words")
    x = layers.Embedding(UNKNOWN + 1 + options.vocabulary, options.width, mask_zero=True)(words)
    x = Places()(x)
    attended = layers.MultiHeadAttention(options.heads, options.width // options.heads, dropout=0.1)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, attended]))
    hidden = layers.Dense(options.width)(layers.Dense(2 * options.width, "relu")(x))
    x = layers.LayerNormalization()(layers.Add()([x, layers.Dropout(0.1)(hidden)]))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(words, layers.Dense(len(PACKAGES), "softmax")(x), name="text_classifier")
    model.compile(keras.optimizers.Adam(options.learning_rate), loss="sparse_categorical_crossentropy", metrics=["acc"])
    return model


def callbacks(folder: str) -> list[keras.callbacks.Callback]:
    """Returns what keeps the best model, lowers the learning rate and ends the training, by "val_acc"."""
    folder = tempfile.mkdtemp() if "://" in folder else folder
    return [
        keras.callbacks.ModelCheckpoint(f"{folder}/best.keras", monitor="val_acc", mode="max", save_best_only=True),
        keras.callbacks.ReduceLROnPlateau(monitor="val_acc", mode="max", factor=0.3, patience=2),
        keras.callbacks.EarlyStopping(monitor="val_acc", mode="max", patience=4, restore_best_weights=True),
    ]


def train(worker: service.Worker) -> keras.callbacks.History:
    """Trains the classifier; every worker calls this."""
    options = Options(**worker.options)
    training, validation = texts(options)
    with worker.strategy.scope():
        model = build(options)
    return worker.fit_generator(
        model,
        batches(training, options.batch_size, worker.run.seed),
        steps_per_epoch=-(-len(training.y) // options.batch_size),
        epochs=options.epochs,
        validation_data=batches(validation, options.batch_size),
        validation_steps=-(-len(validation.y) // options.batch_size),
        callbacks=callbacks(worker.folder),
        max_queue_size=10,
        workers=1,
    )


if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="text-classifier"))
