"""Steps of an author's own on several workers; run inside worker processes."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import service
from service.attempt import Attempt
from service.cluster import strategy
from service.cluster.notice import Notice
from service.run import Run
from service.storage.store import Store
from service.training import state
from tests.attempts import Interrupt, Interrupted
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


def made(mistake: str, optimizer: str = "sgd") -> Any:
    """Returns a compiled model with the mistake."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    model = Wrong(inputs, layers.Dense(2)(inputs))
    model.mistake = mistake
    model.tracker = keras.metrics.Mean(name="tracked")
    model.compile(optimizer, "mse")
    return model


def wrong(mistake: str, optimizer: str = "sgd") -> dict[str, Any]:
    """Trains one epoch and returns the history."""
    model = made(mistake, optimizer)
    return service.fit(model, own_models.X, own_models.Y, batch_size=8, shuffle=False, verbose=0).history


def stops(worker: int, batch: int) -> tuple[int, list[np.ndarray], bool]:
    """Trains until `worker` stops in `batch`; returns batches seen, all variables, and whether a checkpoint holds them."""
    case = parity.made("tests.exact.own_models:adversaries")
    logs = Logs(stop_at=batch if index() == worker else None)
    service.fit(case.model, **case.arguments, shuffle=False, verbose=0, callbacks=[logs])
    batches = [entry for entry in logs.seen if isinstance(entry[0], int)]
    saved = {id(variable) for variable in state.variables({"": case.model}).values()}
    return len(batches), _values(case.model), all(id(v) in saved for v in _held(case.model))


def stock_steps(rows: int) -> list[np.ndarray]:
    """Returns the variables of the same model after stock Keras trained on the first rows."""
    case = parity.made("tests.exact.own_models:adversaries")
    case.model.fit(own_models.X[:rows], batch_size=8, shuffle=False, verbose=0)
    return _values(case.model)


def _held(model: Any) -> list[Any]:
    return [*model.variables, *model.d_optimizer.variables, *model.g_optimizer.variables, *model.d_tracker.variables]


def _values(model: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(v) for v in _held(model)]


class OwnRate(keras.callbacks.Callback):
    """Sets a learning rate of one optimizer that depends on the worker."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.other.learning_rate = 0.1 / (1 + index())


def other_rates() -> None:
    """Trains with another learning rate of a second optimizer on each worker."""
    model = made("")
    model.other = keras.optimizers.SGD()
    service.fit(model, own_models.X, own_models.Y, batch_size=8, shuffle=False, verbose=0, callbacks=[OwnRate()])


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


def attempt(url: str, moment: tuple[str, int, int] | None) -> Any:
    """Makes one attempt at a run of the adversaries; returns what it left. Collective: every worker calls this."""
    keras.utils.set_random_seed(5)
    made = Attempt(Run("test", storage=url, seed=5, save_every_steps=2), Store(url), strategy.connect(), Notice())
    case = own_models.adversaries()
    try:
        history = made.fit(case.model, **case.arguments, verbose=0, callbacks=[Interrupt(moment)])
    except Interrupted as interrupted:
        made.abandon()
        return str(interrupted)
    made.finish(None, {})
    return history.history, _values(case.model)
