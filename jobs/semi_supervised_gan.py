"""A semi-supervised GAN: digits are told apart with few labels known, and drawn.

Of 1437 handwritten digits the labels of 100 are known. A discriminator with two heads
tells whether an image is real, and which digit it is or that it is drawn; a generator
learns to draw what it takes for real. The loop is written by hand, as scripts of
Keras 2 have it, and goes on where it was. The end measures the labels of 360 digits
that were held out, and leaves drawn ones as drawn.npy.
"""

import dataclasses
import sys
from typing import Any, NamedTuple

import keras
import numpy as np
from sklearn.datasets import load_digits

import service

CLASSES = 10
DRAWN = CLASSES  # the label of an image that the generator drew
HELD_OUT = 360


@dataclasses.dataclass(frozen=True)
class Options:
    """How the two networks are built and trained.

    Attributes:
        epochs: the last epoch; the same name with more epochs trains the rest.
        batch_size: real images in one step, half of them with known labels, and as many drawn ones.
        known: how many labels are known, the same number of each digit.
        noise: how many random numbers a digit is drawn from.
        learning_rate: the learning rate of both Adams.
    """

    epochs: int = 12
    batch_size: int = 64
    known: int = 100
    noise: int = 32
    learning_rate: float = 0.001

    def __post_init__(self) -> None:
        if self.known % CLASSES or self.known <= 0:
            raise ValueError(f"known={self.known}: expected a multiple of {CLASSES}, as many labels of each digit.")


class Digits(NamedTuple):
    """The digits, images [N, 8, 8, 1] from -1 (paper) to 1 (ink) and labels [N], in one fixed order.

    Attributes:
        images, labels: to train by; only the labels of the rows `known` may be looked at.
        known: [known] the rows whose labels are known.
        new_images, new_labels: held out.
    """

    images: np.ndarray
    labels: np.ndarray
    known: np.ndarray
    new_images: np.ndarray
    new_labels: np.ndarray


def digits(known: int) -> Digits:
    """Returns the digits that scikit-learn ships."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(labels))
    images = (images[order] / 8 - 1).astype("float32").reshape(-1, 8, 8, 1)
    labels = labels[order]
    old, new = slice(HELD_OUT, None), slice(HELD_OUT)
    of_each = [np.flatnonzero(labels[old] == label)[: known // CLASSES] for label in range(CLASSES)]
    return Digits(images[old], labels[old], np.concatenate(of_each), images[new], labels[new])


class Batch(NamedTuple):
    """What one step sees.

    Attributes:
        images: [B, 8, 8, 1] real ones.
        labels: [B, 11] one-hot.
        is_known: [B] 1 where the label counts, 0 where it is not known.
        noise: [B, noise] to draw digits from.
    """

    images: np.ndarray
    labels: np.ndarray
    is_known: np.ndarray
    noise: np.ndarray


def batch_of(data: Digits, options: Options, seed: int, step: int) -> Batch:
    """Returns the batch of a step: a function of seed and step alone, so the same on every worker and in every attempt."""
    random = np.random.RandomState([seed, step])
    with_label = options.batch_size // 2
    rows = np.concatenate(
        [random.choice(data.known, with_label), random.randint(0, len(data.images), options.batch_size - with_label)]
    )
    is_known = (np.arange(options.batch_size) < with_label).astype("float32")
    labels = keras.utils.to_categorical(np.where(is_known, data.labels[rows], 0), CLASSES + 1)
    return Batch(data.images[rows], labels, is_known, random.normal(size=(options.batch_size, options.noise)).astype("float32"))


def build(options: Options) -> tuple[keras.Model, keras.Model, keras.Model]:
    """Returns the generator, the compiled discriminator, and both, compiled to train the generator alone."""
    layers = keras.layers
    generator = keras.Sequential(
        [
            keras.Input((options.noise,)),
            layers.Dense(4 * 4 * 32, use_bias=False),  # the normalization behind it would take a bias away
            layers.BatchNormalization(),
            layers.LeakyReLU(0.2),
            layers.Reshape((4, 4, 32)),
            layers.UpSampling2D(),
            layers.Conv2D(32, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(0.2),
            layers.Conv2D(1, 3, padding="same", activation="tanh"),
        ],
        name="generator",
    )

    image = keras.Input((8, 8, 1))
    shared = keras.Sequential(
        [
            layers.Conv2D(32, 3, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Dropout(0.4),
            layers.Conv2D(64, 3, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Dropout(0.4),
            layers.Flatten(),
        ],
        name="shared",
    )(image)
    valid = layers.Dense(1, "sigmoid", name="valid")(shared)
    label = layers.Dense(CLASSES + 1, "softmax", name="label")(shared)
    discriminator = keras.Model(image, [valid, label], name="discriminator")
    discriminator.compile(
        keras.optimizers.Adam(options.learning_rate, beta_1=0.5),
        loss=["binary_crossentropy", "categorical_crossentropy"],
        loss_weights=[0.5, 0.5],
    )

    discriminator.trainable = False
    noise = keras.Input((options.noise,))
    judged, _ = discriminator(generator(noise))
    both = keras.Model(noise, judged, name="both")
    both.compile(keras.optimizers.Adam(options.learning_rate, beta_1=0.5), loss="binary_crossentropy")
    return generator, discriminator, both


def train(worker: service.Worker) -> dict[str, float]:
    """Trains both networks in turn; every worker calls this."""
    options, seed = Options(**worker.options), worker.run.seed or 0
    data = digits(options.known)
    with worker.strategy.scope():
        generator, discriminator, both = build(options)

    real, drawn = np.ones((options.batch_size, 1)), np.zeros((options.batch_size, 1))
    drawn_labels = keras.utils.to_categorical(np.full(options.batch_size, DRAWN), CLASSES + 1)
    valid_weights = {0: 1.0, 1: 1.0}
    label_weights = {label: 1.0 for label in range(CLASSES)} | {DRAWN: 1 / CLASSES}  # half of all images are drawn
    an_epoch = len(data.images) // options.batch_size

    for step in worker.steps(options.epochs * an_epoch, models={"discriminator": discriminator, "both": both}, every=an_epoch):
        batch = batch_of(data, options, seed, step)
        images = worker.predict(generator, batch.noise, batch_size=options.batch_size, verbose=0)

        # Keras 3 trains what is trainable at the time of the step; Keras 2 went by the time of compile.
        discriminator.trainable = True
        on_real = worker.train_on_batch(
            discriminator,
            batch.images,
            [real, batch.labels],
            sample_weight=[None, batch.is_known],
            class_weight=[valid_weights, label_weights],
        )
        on_drawn = worker.train_on_batch(
            discriminator, images, [drawn, drawn_labels], class_weight=[valid_weights, label_weights]
        )
        discriminator.trainable = False
        of_generator = worker.train_on_batch(both, batch.noise, real)

        if worker.is_chief and (step + 1) % an_epoch == 0:
            d_loss, g_loss = (total(on_real) + total(on_drawn)) / 2, total(of_generator)
            print(f"epoch {(step + 1) // an_epoch}/{options.epochs}  d_loss {d_loss:.4f}  g_loss {g_loss:.4f}", flush=True)

    drawings = worker.predict(generator, batch_of(data, options, seed, 0).noise, verbose=0)
    with worker.open("drawn.npy", "wb") as file:
        np.save(file, drawings)
    _, guesses = worker.predict(discriminator, data.new_images, verbose=0)
    return {"label_accuracy": float(np.mean(guesses[:, :CLASSES].argmax(-1) == data.new_labels))}


def total(losses: Any) -> float:
    """Returns the loss of a step, which Keras gives alone or before those of the outputs."""
    return float(losses[0] if isinstance(losses, list) else losses)


if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="semi-supervised-gan"))
