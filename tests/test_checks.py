"""Losses and metrics that reach for symbolic tensors are refused before the first step, and no others."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from service.checks import check_losses
from service.errors import ModelInvalid

X = np.ones((6, 3))
z_mean = keras.Input((2,), name="z")  # a symbolic tensor that is global, as a notebook has it
mean = z_mean


def from_globals(y_true, y_pred):
    return ops.mean(ops.square(y_pred - y_true)) + ops.mean(z_mean)


def innocent(y_true, y_pred):
    """`ops.mean` is an attribute; the global `mean` is not used."""
    return ops.mean(ops.square(y_pred - y_true))


def calls_another(y_true, y_pred):
    return from_globals(y_true, y_pred)


def with_default(y_true, y_pred, latent=z_mean):
    return ops.mean(y_pred - y_true)


def inside(y_true, y_pred):
    return ops.mean((lambda error: error + z_mean)(y_pred - y_true))


def third_is_latent(latent, y_true, y_pred):
    return ops.mean(y_pred - y_true)


class WithLatent(keras.losses.Loss):
    def __init__(self, latent):
        super().__init__(name="with_latent")
        self.latent = latent

    def call(self, y_true, y_pred):
        return ops.mean(self.latent) + ops.mean(y_pred - y_true, axis=-1)


def vae(make_loss, **options):
    inputs = keras.Input((3,))
    z_log_var = layers.Dense(2)(inputs)
    model = keras.Model(inputs, layers.Dense(3)(z_log_var))
    model.compile("sgd", make_loss(z_log_var), **options)
    return model


def closed_over(z_log_var):
    def vae_loss(x, x_decoded):
        return ops.mean(ops.square(x - x_decoded)) - 0.5 * ops.mean(1 + z_log_var)

    return vae_loss


def in_a_list(z_log_var):
    held = [z_log_var, 3.0]
    return lambda x, x_decoded: ops.mean(held[0])


CAUGHT = {
    "a closure": (closed_over, 'The loss "vae_loss" uses "z_log_var", a symbolic tensor of shape \\(None, 2\\)'),
    "a list in a closure": (in_a_list, '"held", a symbolic tensor'),
    "a global": (lambda z: from_globals, 'The loss "from_globals" uses "z_mean"'),
    "a function that is called": (lambda z: calls_another, 'The loss "calls_another" uses "z_mean"'),
    "a default": (lambda z: with_default, '"latent", a symbolic'),
    "a function inside": (lambda z: inside, '"z_mean", a symbolic'),
    "a partial": (lambda z: functools.partial(third_is_latent, z), "argument 0.*, a symbolic"),
    "a loss object": (WithLatent, 'The loss "with_latent" uses "latent"'),
    "one of several losses": (lambda z: {"dense_out": closed_over(z)}, "z_log_var"),
}


@pytest.mark.parametrize("case", CAUGHT)
def test_a_loss_that_uses_a_symbolic_tensor_is_refused_with_what_to_write(case):
    make_loss, words = CAUGHT[case]
    with pytest.raises(ModelInvalid, match=words) as refused:
        check_losses(vae(make_loss))
    assert "self.add_loss" in str(refused.value)


def test_a_metric_that_uses_a_symbolic_tensor_is_refused():
    with pytest.raises(ModelInvalid, match='The metric "from_globals"'):
        check_losses(vae(lambda z: "mse", metrics=["mae", from_globals]))


def perceptual(z_log_var):
    features = keras.Model(i := keras.Input((3,)), layers.Dense(2)(i))
    return lambda y_true, y_pred: ops.mean(ops.square(features(y_true) - features(y_pred)))


@pytest.mark.parametrize(
    "make_loss",
    [
        lambda z: innocent,
        lambda z: "mse",
        lambda z: keras.losses.Huber(),
        perceptual,
        lambda z: functools.partial(third_is_latent, 2.0),
        lambda z: None,
    ],
    ids=["attributes of the same name", "a name", "Keras's", "a model in a closure", "a partial", "none"],
)
def test_other_losses_are_not(make_loss):
    model = vae(make_loss, metrics=["mae", keras.metrics.AUC(), innocent], weighted_metrics=["mse"])
    check_losses(model)
    check_losses(model)
