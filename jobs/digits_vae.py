"""A variational autoencoder on handwritten digits, its loss in a layer or as a function.

The digits are the 1797 real ones that scikit-learn ships, of 8 x 8 pixels. An encoder
turns each into a normal distribution over a few numbers, a decoder draws it again
from a sample of that distribution. --loss chooses between two ways to write the same
loss; both train to the same numbers.
"""

import dataclasses
import sys
from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits

import service

PIXELS = 64


@dataclasses.dataclass(frozen=True)
class Options:
    """How the autoencoder is built and trained.

    Attributes:
        epochs: the last epoch; the same name with more epochs trains the rest.
        batch_size: rows in one step, over all workers together.
        latent: how many numbers a digit is described by.
        hidden: units in the hidden layer of the encoder, and of the decoder.
        learning_rate: the learning rate of Adam.
        loss: "layer" adds the loss in the model's last layer, "function" gives one to compile.
    """

    epochs: int = 30
    batch_size: int = 128
    latent: int = 8
    hidden: int = 128
    learning_rate: float = 0.003
    loss: Literal["layer", "function"] = "layer"


def digits() -> np.ndarray:
    """Returns the digits, [1797, 64] float32 from 0 (paper) to 1 (ink)."""
    return (load_digits().data / 16).astype("float32")


@keras.saving.register_keras_serializable(package="samestep_jobs")
class Sampling(keras.layers.Layer):
    """Draws a latent vector from the distribution that the encoder describes."""

    def __init__(self, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: list) -> Any:
        mean, log_variance = inputs  # [B, latent] each
        noise = keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self.generator)
        return mean + ops.exp(log_variance / 2) * noise

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


def negative_evidence(x: Any, decoded: Any, mean: Any, log_variance: Any) -> Any:
    """Returns [B], for each digit how badly it was redrawn, plus its latent's surplus information.

    The sum over pixels of the cross-entropy, and the divergence of the latent
    distribution from the standard normal one, both in nats.
    """
    redrawn = PIXELS * keras.losses.binary_crossentropy(x, decoded)  # Keras takes the mean over pixels
    divergence = -ops.sum(1 + log_variance - ops.square(mean) - ops.exp(log_variance), axis=-1) / 2
    return redrawn + divergence


@keras.saving.register_keras_serializable(package="samestep_jobs")
class EvidenceLayer(keras.layers.Layer):
    """Passes the decoded digits on, and adds the batch's mean loss to the model."""

    def call(self, inputs: list) -> Any:
        x, decoded, mean, log_variance = inputs
        self.add_loss(ops.mean(negative_evidence(x, decoded, mean, log_variance)))
        return decoded


@keras.saving.register_keras_serializable(package="samestep_jobs")
def evidence_loss(y_true: Any, y_pred: Any) -> Any:
    """Returns [B], the same loss from digits [B, 64] and an output [B, 64 + 2 * latent]."""
    latent = (y_pred.shape[-1] - PIXELS) // 2
    return negative_evidence(y_true, *ops.split(y_pred, [PIXELS, PIXELS + latent], axis=-1))


def build(options: Options, seed: int) -> keras.Model:
    """Returns the compiled model; its weights are the same for either loss."""
    seeds = iter(np.random.SeedSequence(seed).generate_state(6).tolist())

    def dense(units: int, activation: str | None, name: str) -> keras.layers.Dense:
        start = keras.initializers.GlorotUniform(seed=next(seeds))
        return keras.layers.Dense(units, activation, kernel_initializer=start, name=name)

    x = keras.Input((PIXELS,), name="digit")
    encoded = dense(options.hidden, "relu", "encoder")(x)
    mean = dense(options.latent, None, "mean")(encoded)
    log_variance = dense(options.latent, None, "log_variance")(encoded)
    sample = Sampling(next(seeds), name="sample")([mean, log_variance])
    decoded = dense(options.hidden, "relu", "decoder")(sample)
    decoded = dense(PIXELS, "sigmoid", "decoded")(decoded)

    optimizer = keras.optimizers.Adam(options.learning_rate)
    if options.loss == "layer":
        output = EvidenceLayer(name="evidence")([x, decoded, mean, log_variance])
        model = keras.Model(x, output, name="digits_vae")
        model.compile(optimizer, loss=None)
    else:
        output = keras.layers.Concatenate(name="evidence")([decoded, mean, log_variance])
        model = keras.Model(x, output, name="digits_vae")
        model.compile(optimizer, loss=evidence_loss)
    return model


def train(worker: service.Worker) -> keras.callbacks.History:
    """Trains the autoencoder; every worker calls this."""
    options = Options(**worker.options)
    x = digits()
    with worker.strategy.scope():
        model = build(options, worker.run.seed or 0)
    return worker.fit(
        model,
        x,
        None if options.loss == "layer" else x,
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_split=0.1,
    )


if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="digits-vae"))
