"""A model comes back with the author's own classes, from its file and what stands beside it."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import service
from jobs import digits_vae
from service.errors import ModelInvalid
from service.storage.store import Store
from service.training import models


def saved(model, folder):
    store = Store(str(folder))
    store.write("model.keras", models.to_bytes(model))
    store.write("model.json", json.dumps(models.describe(model)).encode())
    return store


def test_a_loaded_model_trains_on_to_the_same_bits(tmp_path):
    x = digits_vae.digits()[:64]
    model = digits_vae.build(digits_vae.Options(hidden=8, latent=2, loss="function"), 3)
    service.fit(model, x, x, verbose=0)
    saved(model, tmp_path)
    loaded = service.load_model(str(tmp_path))
    for one, other in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    for one, other in zip(model.variables, loaded.variables, strict=True):  # the generator's count of draws too
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    plain = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(plain.get_weights()[1], model.get_weights()[1])
    for trained in (model, loaded):
        service.fit(trained, x, x, shuffle=False, verbose=0)
    for one, other in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    about = json.loads((tmp_path / "model.json").read_text())
    homes = {entry["home"] for entry in about["custom"]}
    assert homes == {"jobs.digits_vae:Sampling", "jobs.digits_vae:evidence_loss"}
    assert about["lacks"] == []


def test_a_model_with_tensorflow_s_mathematics_and_infinite_options_comes_back(tmp_path):
    model = keras.Sequential([keras.Input((1, 2)), keras.layers.Masking(np.nan), keras.layers.Dense(3, tf.nn.swish)])
    model.compile("adam", "mse")
    model.fit(np.ones((4, 1, 2)), np.ones((4, 1, 3)), verbose=0)
    saved(model, tmp_path)
    loaded = service.load_model(str(tmp_path))
    assert loaded.layers[-1].activation is model.layers[-1].activation and models.missing(model) == []
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


def test_what_cannot_come_back_is_named(tmp_path):
    def local_loss(y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", local_loss)
    saved(model, tmp_path)
    with pytest.raises(ModelInvalid, match=r"local_loss.*made inside a function; move it"):
        service.load_model(str(tmp_path))


def test_what_will_not_come_back_is_named_before_training_and_nothing_else_changes():
    def local_loss(y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)

    def build(loss):
        keras.utils.set_random_seed(3)
        keras.backend.clear_session()
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dropout(0.1)])
        model.compile("adam", loss)
        model.optimizer.build(model.trainable_variables)
        return model

    def next_model():
        layer = keras.layers.Dense(1)
        layer.build((None, 2))
        return layer.name, layer.kernel.numpy().tolist()

    build("mse")
    undisturbed = next_model()
    assert models.missing(build("mse")) == []
    assert next_model() == undisturbed
    (reason,) = models.missing(build(local_loss))
    assert "local_loss" in reason and "move it to the top of a module" in reason
    assert next_model() == undisturbed


def test_a_model_whose_constructor_keeps_no_arguments_is_named_before_training():
    class Unfinished(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.dense = keras.layers.Dense(units)

        def call(self, x):
            return self.dense(x)

    model = Unfinished(2)
    model.compile("sgd", "mse")
    model(np.zeros((1, 2)))
    assert models.missing(model)


def test_a_module_that_is_not_here_is_named(tmp_path):
    model = digits_vae.build(digits_vae.Options(hidden=8, latent=2), 3)
    store = saved(model, tmp_path)
    about = store.read("model.json").replace(b"jobs.digits_vae:", b"no_such_module:")
    store.write("model.json", about)
    with pytest.raises(ModelInvalid, match=r"needs no_such_module:.* cannot import"):
        service.load_model(f"{tmp_path}/model.keras")
