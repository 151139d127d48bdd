"""service.fit and its siblings in one process, as stock Keras."""

import keras
import numpy as np
import pytest

import service
from service.errors import DataInvalid, ModelInvalid, RunInvalid

X = np.random.RandomState(0).randn(23, 4).astype("float32")
Y = X.sum(1, keepdims=True)


def model(compiled=True, eager=False):
    keras.utils.set_random_seed(2)
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.3), keras.layers.Dense(1)])
    if compiled:
        made.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], run_eagerly=eager)
    return made


@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
def test_alone_fit_is_stock_keras_bit_for_bit(eager):
    arguments = dict(x=X, y=Y, batch_size=5, epochs=3, validation_split=0.2, shuffle=False, verbose=0)
    ours, stock = model(eager=eager), model(eager=eager)
    history = service.fit(ours, **arguments)
    expected = stock.fit(**arguments)
    assert history.history == expected.history and history.epoch == expected.epoch
    assert ours.history is history and history.params == expected.params
    for mine, keras_s in zip(ours.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, keras_s)


def test_hooks_come_in_keras_s_order():
    class Hooks(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.calls = []

        def __getattribute__(self, name):
            if name.startswith("on_"):
                return lambda *args, **kwargs: self.calls.append((name, *[a for a in args if isinstance(a, int)]))
            return super().__getattribute__(name)

    ours, stock = Hooks(), Hooks()
    arguments = dict(x=X, y=Y, batch_size=9, epochs=3, validation_data=(X[:7], Y[:7]), validation_freq=2, verbose=0)
    service.fit(model(), **arguments, callbacks=[ours])
    model().fit(**arguments, callbacks=[stock])
    assert ours.calls == stock.calls


def test_stopping_in_a_batch_still_ends_the_epoch():
    class Stop(keras.callbacks.Callback):
        ended = None

        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = self.model.stop_training or batch == 1

        def on_epoch_end(self, epoch, logs=None):
            self.ended = sorted(logs)

    stop, trained = Stop(), model()
    service.fit(trained, X, Y, batch_size=5, epochs=4, validation_split=0.2, verbose=0, callbacks=[stop])
    assert int(trained.optimizer.iterations.numpy()) == 2
    assert stop.ended == ["loss", "mae", "val_loss", "val_mae"]


def test_evaluate_and_predict_are_keras_s():
    made = model()
    assert service.evaluate(made, X, Y, batch_size=5, verbose=0) == made.evaluate(X, Y, batch_size=5, verbose=0)
    by_name = service.evaluate(made, X, Y, sample_weight=X[:, 0] ** 2, batch_size=5, verbose=0, return_dict=True)
    assert by_name == made.evaluate(X, Y, sample_weight=X[:, 0] ** 2, batch_size=5, verbose=0, return_dict=True)
    np.testing.assert_array_equal(service.predict(made, X, batch_size=5, verbose=0), made.predict(X, batch_size=5, verbose=0))
    assert service.evaluate(made, X, Y, batch_size=5, steps=2, verbose=0) == made.evaluate(
        X[:10], Y[:10], batch_size=5, verbose=0
    )


def test_predict_needs_no_compile():
    made = model(compiled=False)
    np.testing.assert_array_equal(service.predict(made, X, verbose=0), made.predict(X, verbose=0))


def test_a_model_that_is_not_built_is_built_as_keras_does():
    def unbuilt():
        keras.utils.set_random_seed(4)
        made = keras.Sequential([keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)])
        made.compile("sgd", "mse")
        return made

    ours, stock = unbuilt(), unbuilt()
    service.fit(ours, X, Y, shuffle=False, verbose=0)
    stock.fit(X, Y, shuffle=False, verbose=0)
    for mine, keras_s in zip(ours.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, keras_s)


def test_compiling_again_takes_the_new_optimizer_and_what_is_trainable():
    made = model()
    service.fit(made, X, Y, verbose=0)
    made.layers[-1].trainable = False
    made.compile(keras.optimizers.SGD(1.0), "mse")
    before = made.get_weights()
    service.fit(made, X, Y, verbose=0)
    for one, other in zip(before, made.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


class OwnLoop(keras.Model):
    def make_train_function(self, force=False):
        return super().make_train_function(force)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: service.fit(model(compiled=False), X, Y), ModelInvalid, "is not compiled"),
        (lambda: service.fit("model", X, Y), ModelInvalid, "got a str"),
        (lambda: service.fit(model(), X, Y[:3]), DataInvalid, "x has 23, y has 3"),
        (lambda: service.fit(model(), X, Y, batch_size=0), RunInvalid, "batch_size=0"),
        (lambda: service.fit(model(), X, Y, sample_weight=X[:, 0] * np.nan), DataInvalid, "sample_weight is .*nan"),
        (
            lambda: service.fit(model(), X, Y, validation_data=(X[:4], Y[:3])),
            DataInvalid,
            "validation_data's x has 4, validation_data's y has 3",
        ),
        (lambda: service.fit(own_loop(), X, Y), ModelInvalid, "OwnLoop overrides make_train_function"),
    ],
)
def test_what_cannot_be_trained_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()


def own_loop():
    inputs = keras.Input((4,))
    made = OwnLoop(inputs, keras.layers.Dense(1)(inputs))
    made.compile("sgd", "mse")
    return made


def test_a_model_that_is_frozen_says_so():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.trainable = False
    with pytest.warns(UserWarning, match="no weights to train: set `trainable = True` before its steps"):
        service.train_on_batch(model, np.ones((2, 2)), np.ones((2, 1)))
