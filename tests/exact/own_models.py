"""Models with steps of their own, and with metrics inside; each with its data and the arguments of fit."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import service
from tests.exact.models import Case, uneven_weights

# 25 rows in batches of 8: the last batch has one row, so with three workers two of them are idle.
X = np.random.RandomState(0).randn(25, 6)
Y = X @ np.random.RandomState(2).randn(6, 2) + 1.0


def _layers() -> tuple[Any, Any]:
    inputs = keras.Input((6,))
    hidden = layers.Dropout(0.3, seed=4)(layers.BatchNormalization(momentum=0.8)(layers.Dense(8, use_bias=False)(inputs)))
    return inputs, layers.Dense(2)(layers.Activation("tanh")(hidden))


class PlainStep(keras.Model):
    """Keras's guide to a custom train_step: compute_loss, a tape, apply, all metrics."""

    def train_step(self, data: Any) -> Any:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weights)
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(grads, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred, sample_weight=weights)
        return self.get_metrics_result()

    def test_step(self, data: Any) -> Any:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weights)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=ops.shape(x)[0])
            else:
                metric.update_state(y, y_pred, sample_weight=weights)
        return self.get_metrics_result()

    def predict_step(self, data: Any) -> Any:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return {"twice": 2.0 * self(x, training=False), "sum": ops.sum(x, axis=1)}


def plain() -> Case:
    model = PlainStep(*_layers())
    model.compile(keras.optimizers.Adam(0.02, global_clipnorm=0.5), "mse", metrics=["mae"], weighted_metrics=["mse"])
    return Case(model, dict(x=X, y=Y, sample_weight=uneven_weights(25), batch_size=8, epochs=2, validation_split=0.2))


class Largest(keras.metrics.Metric):
    """A running maximum of what it is given: its state is no sum."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.largest = self.add_variable((), "zeros")

    def update_state(self, y_true: Any, y_pred: Any) -> None:
        self.largest.assign(ops.maximum(self.largest, ops.max(ops.abs(y_true - y_pred))))

    def result(self) -> Any:
        return self.largest + 0.0


class Trackers(keras.Model):
    """Trackers of its own, a loss that is a mean of its own, and numbers in the logs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = layers.Dense(7, "tanh")
        self.table = layers.Embedding(5, 6)
        self.last = layers.Dense(2)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.rows_tracker = keras.metrics.Mean(name="rows")
        self.sum_tracker = keras.metrics.Sum(name="sum")
        self.largest = Largest("largest")
        self.rows_loss = keras.losses.MeanSquaredError(reduction=None)

    @property
    def metrics(self) -> Any:
        return [self.loss_tracker, self.rows_tracker, self.sum_tracker, self.largest]

    def call(self, x: Any) -> Any:
        places = ops.cast(ops.abs(x[:, :3]) * 2.0, "int32") % 5
        positions = ops.sum(self.table(ops.arange(3)), axis=0)
        return self.last(self.hidden(x + ops.sum(self.table(places), axis=1) + positions))

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x)
            errors = ops.square(y - y_pred)
            mean = service.share(ops.mean(errors))
            twice = self.rows_loss(ops.concatenate([y, y]), ops.concatenate([y_pred, 2.0 * y_pred]))
            loss = mean + 0.1 * service.share(ops.mean(twice))
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
        self.loss_tracker.update_state(loss)
        self.rows_tracker.update_state(errors, sample_weight=ops.abs(x[:, 0]))
        self.sum_tracker.update_state(ops.sum(errors))
        self.largest.update_state(y, y_pred)
        norm = service.share(ops.sum(ops.square(self.last.kernel)))
        return {**self.get_metrics_result(), "now": loss, "norm": norm, "rate": self.optimizer.learning_rate}


def trackers() -> Case:
    model = Trackers()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    return Case(model, dict(x=X, y=Y, batch_size=8, epochs=2))


class Adversaries(keras.Model):
    """Keras's GAN example: two optimizers, one batch of generated and real rows together, unbuilt at first."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = keras.random.SeedGenerator(5)
        self.generator = keras.Sequential([layers.Dense(5, "tanh"), layers.Dense(6)])
        self.discriminator = keras.Sequential([layers.Dense(8), layers.LeakyReLU(), layers.Dense(1)])
        self.d_tracker = keras.metrics.Mean(name="d_loss")
        self.g_tracker = keras.metrics.Mean(name="g_loss")

    def compile(self, d_optimizer: Any, g_optimizer: Any, loss_fn: Any) -> None:
        super().compile()
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn

    @property
    def metrics(self) -> Any:
        return [self.d_tracker, self.g_tracker]

    def call(self, x: Any) -> Any:
        return self.discriminator(x)

    def train_step(self, data: Any) -> Any:
        real = data[0] if isinstance(data, tuple) else data
        rows = ops.shape(real)[0]
        made = self.generator(keras.random.normal((rows, 3), seed=self.noise))
        labels = ops.concatenate([ops.ones((rows, 1)), ops.zeros((rows, 1))], axis=0)
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(ops.concatenate([made, real], axis=0)))
        grads = tape.gradient(d_loss, self.discriminator.trainable_weights)
        self.d_optimizer.apply_gradients(zip(grads, self.discriminator.trainable_weights, strict=True))
        noise = keras.random.normal((rows, 3), seed=self.noise)
        with tf.GradientTape() as tape:
            g_loss = self.loss_fn(ops.zeros((rows, 1)), self.discriminator(self.generator(noise)))
        grads = tape.gradient(g_loss, self.generator.trainable_weights)
        self.g_optimizer.apply_gradients(zip(grads, self.generator.trainable_weights, strict=True))
        self.d_tracker.update_state(d_loss)
        self.g_tracker.update_state(g_loss)
        return {"d_loss": self.d_tracker.result(), "g_loss": self.g_tracker.result()}


def adversaries() -> Case:
    model = Adversaries()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.05, momentum=0.5, clipnorm=0.3), loss)
    return Case(model, dict(x=X, batch_size=8, epochs=2))


class Counted(layers.Layer):
    """A layer with metrics of its own, updated in call."""

    def __init__(self) -> None:
        super().__init__()
        self.size = keras.metrics.Mean(name="size")
        self.largest = Largest("largest")

    def call(self, x: Any) -> Any:
        self.size.update_state(ops.mean(ops.abs(x), axis=1))
        self.largest.update_state(x, 0.0)
        return x


class OwnMetrics(keras.Model):
    """A compute_metrics of its own, with Keras's train_step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.largest = Largest("own")

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        self.largest.update_state(y, y_pred)
        return {**results, "own": self.largest.result()}


def _counted(kind: Any) -> Case:
    inputs = keras.Input((6,))
    model = kind(inputs, layers.Dense(2)(Counted()(layers.Dense(8, "tanh")(inputs))))
    model.compile(keras.optimizers.SGD(0.05), "mse", metrics=["mae"])
    return Case(model, dict(x=X, y=Y, batch_size=8, epochs=2, validation_split=0.2))


def in_a_layer() -> Case:
    """Keras's own steps; only the layer has metrics."""
    return _counted(keras.Model)


def own_metrics() -> Case:
    return _counted(OwnMetrics)


class Scaled(keras.Model):
    """Keras's own train_step behind one of its own, with a loss scale."""

    def train_step(self, data: Any) -> Any:
        logs = super().train_step(data)
        return {**logs, "scale": service.share(self.optimizer.dynamic_scale + 0.0)}


def scaled() -> Case:
    inputs = keras.Input((6,))
    model = Scaled(inputs, layers.Dense(2)(layers.Dense(8, "tanh")(inputs)))
    inner = keras.optimizers.Adam(0.02)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0, dynamic_growth_steps=3)
    model.compile(optimizer, "mse", metrics=["mae"])
    return Case(model, dict(x=X, y=Y, batch_size=8, epochs=2))


class Drawn(layers.Layer):
    """Draws from every distribution that keras.random has, for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = keras.random.SeedGenerator(3)

    def call(self, x: Any) -> Any:
        shape, positive = ops.shape(x), ops.abs(x) + 0.5
        chosen = ops.cast(keras.random.categorical(x, 3, seed=self.noise), x.dtype)
        drawn = keras.random.gamma(shape, positive, seed=self.noise) + keras.random.gamma(shape, 2.0, seed=self.noise)
        drawn += keras.random.binomial(shape, 5.0, ops.sigmoid(x), seed=self.noise)
        drawn += keras.random.beta(shape, positive, 2.0, seed=self.noise) + ops.sum(chosen, axis=1, keepdims=True)
        return x + 0.1 * ops.stop_gradient(drawn) + 0.1 * keras.random.shuffle(x, seed=self.noise)


def drawn() -> Case:
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(2)(Drawn()(layers.Dense(6, "tanh")(inputs))))
    model.compile(keras.optimizers.SGD(0.01), "mse", metrics=["mae"])
    return Case(model, dict(x=X, y=Y, batch_size=8, epochs=2))


def positions() -> Case:
    """Keras's token and position embedding: some entries are looked up for each row, some whatever the batch is."""
    tokens = keras.Input((4,), dtype="int32")
    table = layers.Embedding(9, 5)
    places = layers.Embedding(4, 5)
    both = layers.Lambda(lambda t: table(t) + places(ops.arange(4)) + table(ops.arange(4)))
    both.table, both.places = table, places
    model = keras.Model(tokens, layers.Dense(2)(layers.Flatten()(both(tokens))))
    model.compile(keras.optimizers.Adam(0.02), "mse")
    ids = np.random.RandomState(1).randint(0, 9, (25, 4))
    return Case(model, dict(x=ids, y=Y, batch_size=8, epochs=2))


CASES = [f"{__name__}:{f.__name__}" for f in (plain, trackers, adversaries, in_a_layer, own_metrics, scaled, drawn, positions)]
