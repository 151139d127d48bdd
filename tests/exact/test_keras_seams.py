"""Private names are checked in the sources, and replaced only for our own steps."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import service
from service.errors import EnvironmentUnfit
from service.exact import keras_seams
from service.exact.group import Group, Rows
from service.exact.keras_seams import Seam
from service.exact.replica import Replica, acting, current


def test_this_installation_has_every_name():
    keras_seams.check()


@pytest.mark.parametrize(
    ("moved", "says"),
    [
        (Seam("keras.src.losses.loss", "reduce_weights", ("values",)), "reduce_weights of Keras .* is not there"),
        (Seam("keras.src.losses.loss", "Loss.__call__", ("self", "targets")), r"takes \('self', 'y_true'"),
        (Seam("keras.src.gone", "f", ()), "is not there"),
    ],
)
def test_a_name_that_moved_is_refused(monkeypatch, moved, says):
    monkeypatch.setattr(keras_seams, "_USED", (*keras_seams._USED, moved))
    with pytest.raises(EnvironmentUnfit, match=says):
        keras_seams.check()


def test_another_keras_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.16.0")
    with pytest.raises(EnvironmentUnfit, match=r"Keras 3\.16\.0 is installed.*keras==3\.15"):
        keras_seams.check()


def test_the_seams_act_in_one_thread_only():
    seen = []
    with acting(Replica(Group(), Rows(0, 1, 1))):
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
        assert current() is not None
    assert seen == [None] and current() is None


def test_keras_beside_a_fit_is_untouched():
    x = np.random.RandomState(0).randn(12, 3).astype("float32")

    def trained(fit):
        keras.utils.set_random_seed(5)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        fit(model, x, x[:, :1], batch_size=5, epochs=2, verbose=0, shuffle=False)
        return model.get_weights()

    before = trained(keras.Model.fit)
    ours = trained(service.fit)  # puts the seams in place
    after = trained(keras.Model.fit)
    for a, b, c in zip(before, after, ours, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_a_replica_s_noise_is_its_rows_of_the_whole_draw():
    from service.exact import noise

    noise.install()

    class Three(Group):
        size = 3

    for dtype in ("float32", "float64", "float16"):
        for draw in (keras.random.normal, keras.random.uniform, keras.random.truncated_normal):

            @tf.function
            def rows(x, start, count, draw=draw, dtype=dtype):
                with acting(Replica(Three(), Rows(start, count, tf.constant(10)))):
                    return draw(keras.ops.shape(x), dtype=dtype, seed=9)

            whole = draw((10, 7), dtype=dtype, seed=9)
            rows = rows.get_concrete_function(
                *(tf.TensorSpec([None, 7]), tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int32))
            )
            for start, count in ((0, 3), (3, 3), (6, 4), (9, 0)):
                held = max(count, 1)
                mine = rows(tf.zeros([held, 7]), tf.constant(start), tf.constant(count))
                np.testing.assert_array_equal(mine, whole[start : start + held])
