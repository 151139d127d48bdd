"""What a snapshot holds, and that restoring it gives the same run."""

import keras
import numpy as np
import pytest

from service.errors import ModelInvalid
from service.training import state


def model(units=3):
    keras.utils.set_random_seed(1)
    made = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.BatchNormalization(), keras.layers.Dense(units)]
    )
    made.compile("adam", "mse", metrics=["mae"])
    return made


X = np.random.RandomState(0).randn(20, 4).astype("float32")
Y = np.random.RandomState(1).randn(20, 3).astype("float32")


def test_a_snapshot_stays_as_it_was_while_training_goes_on():
    trained = model()
    trained.fit(X, Y, verbose=0)
    held, _ = state.snapshot({"": trained}, [])
    copies = {name: held[name].copy() for name in held}
    trained.fit(X, Y, epochs=3, verbose=0)
    assert all(np.array_equal(held[name], copies[name]) for name in held)
    assert sum(count * size for count, size in held.sizes.values()) == sum(copy.nbytes for copy in copies.values())


def test_a_restored_model_goes_on_to_the_same_bits():
    first = model()
    first.fit(X, Y, batch_size=6, epochs=2, shuffle=False, verbose=0)
    held, plain = state.snapshot({"": first}, [])
    tensors = {name: held[name].copy() for name in held}
    first.fit(X, Y, batch_size=6, epochs=2, shuffle=False, verbose=0)

    second = model()
    second.fit(X[:1], Y[:1], verbose=0)  # so that its optimizer and metrics have variables
    state.restore_models({"": second}, plain, tensors)
    second.fit(X, Y, batch_size=6, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_another_model_is_refused_by_what_differs():
    held, plain = state.snapshot({"": model()}, [])
    with pytest.raises(ModelInvalid, match=r"has shape \(4, 3\), the model's \(4, 5\)"):
        other = model(units=5)
        state.restore_models({"": other}, plain, dict(held))


def test_callbacks_come_back_with_infinities_arrays_and_tuples():
    stopping = keras.callbacks.EarlyStopping("loss", patience=3, restore_best_weights=True)
    stopping.best, stopping.wait = np.inf, 2
    stopping.best_weights = [np.arange(6.0).reshape(2, 3), np.zeros(0)]
    stopping.extra = (1, "two", None, {"three": [np.float32(3.5)]})
    held, plain = state.snapshot({"": model()}, [stopping])

    fresh = keras.callbacks.EarlyStopping("loss", patience=3, restore_best_weights=True)
    state.restore_callbacks([fresh], plain, held)
    assert fresh.best == np.inf and fresh.wait == 2
    assert fresh.extra == (1, "two", None, {"three": [3.5]})
    assert [w.shape for w in fresh.best_weights] == [(2, 3), (0,)]
    assert fresh.model is None


def test_an_author_s_get_state_is_asked_first():
    class Own(keras.callbacks.Callback):
        count = 0

        def get_state(self):
            return {"count": self.count + 1}

        def set_state(self, state):
            self.count = state["count"]

    own, other = Own(), Own()
    own.count = 41
    held, plain = state.snapshot({"": model()}, [own])
    state.restore_callbacks([other], plain, held)
    assert other.count == 42
