"""Steps of an author's own on several workers; run inside worker processes."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import service
from service.training import rehearsal
from tests.exact import own_models, parity
from tests.exact.steps import Logs, index


class Wrong(keras.Model):
    """A train_step with a mistake by name."""

    mistake = ""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = ops.mean(ops.square(y - y_pred)) if self.mistake == "mean" else self.compute_loss(x=x, y=y, y_pred=y_pred)
        grads = tape.gradient(loss, self.trainable_variables)
        if self.mistake == "clip":
            grads = [tf.clip_by_norm(grad, 0.01) for grad in grads]
        self.optimizer.apply(grads, self.trainable_variables)
        if self.mistake == "metric":
            self.tracker.update_state(ops.mean(ops.square(y - y_pred)))
        return {"loss": ops.mean(ops.square(y - y_pred)) if self.mistake == "log" else loss}


def wrong(mistake: str, optimizer: str = "adam") -> dict[str, Any]:
    """Trains one epoch and returns the history."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    model = Wrong(inputs, layers.Dense(2)(inputs))
    model.mistake = mistake
    model.tracker = keras.metrics.Mean(name="tracked")
    model.compile(optimizer, "mse")
    return service.fit(model, own_models.X, own_models.Y, batch_size=8, shuffle=False, verbose=0).history


def stops(worker: int, batch: int) -> tuple[int, list[np.ndarray]]:
    """Trains until `worker` stops in `batch`; returns batches seen and all variables."""
    case = parity.made("tests.exact.own_models:adversaries")
    logs = Logs(stop_at=batch if index() == worker else None)
    service.fit(case.model, **case.arguments, shuffle=False, verbose=0, callbacks=[logs])
    batches = [entry for entry in logs.seen if isinstance(entry[0], int)]
    return len(batches), _variables(case.model)


def stock_steps(rows: int) -> list[np.ndarray]:
    """Returns the variables of the same model after stock Keras trained on the first rows."""
    case = parity.made("tests.exact.own_models:adversaries")
    case.model.fit(own_models.X[:rows], batch_size=8, shuffle=False, verbose=0)
    return _variables(case.model)


def _variables(model: Any) -> list[np.ndarray]:
    held = [*model.variables, *model.d_optimizer.variables, *model.g_optimizer.variables]
    return [keras.ops.convert_to_numpy(v) for v in held]


def adversaries_optimizers() -> tuple[float, int]:
    """Returns how far both optimizers' states are from stock Keras's, and how many optimizers are known."""
    ours = parity.made("tests.exact.own_models:adversaries")
    service.fit(ours.model, **ours.arguments, shuffle=False, verbose=0)
    stock = parity.made("tests.exact.own_models:adversaries")
    stock.model.fit(**stock.arguments, shuffle=False, verbose=0)
    return parity.largest(_variables(stock.model), _variables(ours.model)), len(rehearsal.optimizers(ours.model))


class OwnRate(keras.callbacks.Callback):
    """Sets a learning rate of one optimizer that depends on the worker."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.d_optimizer.learning_rate = 0.1 / (1 + index())


def other_rates() -> None:
    """Trains with another learning rate of an optimizer on each worker."""
    case = parity.made("tests.exact.own_models:adversaries")
    service.fit(case.model, **case.arguments, shuffle=False, verbose=0, callbacks=[OwnRate()])


def local_statistics(count: int) -> float:
    """Returns how far a step with statistics of each replica's own rows is from the same by hand."""

    def made() -> Any:
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.Input((6,)), layers.BatchNormalization(momentum=0.8), layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        return model

    ours, by_hand = service.local_statistics(made()), made()
    x, y = own_models.X[:8], own_models.Y[:8]
    service.fit(ours, x, y, batch_size=8, shuffle=False, verbose=0)
    statistics: list[Any] = [0.0, 0.0]
    held = by_hand.get_weights()
    with tf.GradientTape() as tape:
        loss: Any = 0.0
        for replica in range(count):
            rows = slice(replica * 8 // count, (replica + 1) * 8 // count)
            by_hand.set_weights(held)
            loss += tf.reduce_sum(tf.square(y[rows] - by_hand(x[rows], training=True))) / 16
            share = (rows.stop - rows.start) / 8
            moved = by_hand.layers[0].moving_mean, by_hand.layers[0].moving_variance
            statistics = [total + share * ops.convert_to_numpy(v) for total, v in zip(statistics, moved, strict=True)]
    grads = tape.gradient(loss, [v.value for v in by_hand.trainable_variables])
    by_hand.optimizer.apply(grads, by_hand.trainable_variables)
    by_hand.layers[0].moving_mean.assign(statistics[0])
    by_hand.layers[0].moving_variance.assign(statistics[1])
    return parity.largest(by_hand.get_weights(), ours.get_weights())
