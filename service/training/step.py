"""One global batch: forward, backward, one fused sum over the replicas, update."""

from typing import Any

import keras
import tensorflow as tf

from service.exact import gradients, keras_seams, losses, noise, normalization
from service.exact.group import Group, ScopeGroup
from service.exact.metrics import StepMetrics
from service.exact.replica import Replica, acting

WISHES = 3  # to stop, to save, to leave


class Step:
    """The compiled steps of one model on one group of replicas, for data of one structure.

    Attributes:
        train: takes a step; gives the metrics, what the workers told each other, the batch's loss.
        test: gives the metrics.
        predict: gives the outputs of the whole batch.
        assumptions: what the loss was taken for without knowing, see `training.first_step`.
        is_checked: whether that was compared with one device's loss.

    Every function takes flat tensors of the replica's rows [b, ...] (of the whole batch
    where a strategy's scope holds the variables), `numbers` [6] int32 (start, count, total, and
    1 to stop before this step, to save after it, to leave after it) and the sums of the weights.
    """

    def __init__(self, model: Any, group: Group, like: Any) -> None:
        self.model, self.group = model, group
        self._structure = keras.tree.map_structure(lambda leaf: None if leaf is None else 0, like)
        self._metrics = StepMetrics(model)
        self._names: list[str] = []
        self.assumptions: list[str] = []
        self.is_checked = group.size == 1
        if isinstance(group, ScopeGroup) and model.compiled:
            gradients.let_optimizer_apply(model.optimizer)
        for seams in (losses, noise, normalization):
            seams.install()
        keras_seams.global_seed_generator()
        flat = [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in keras.tree.flatten(like) if t is not None]
        signature = [flat, tf.TensorSpec([3 + WISHES], tf.int32), tf.TensorSpec([None], keras.config.floatx())]
        self.train = self._compiled(self._train, signature)
        self.test = self._compiled(self._test, signature)
        self.predict = self._compiled(self._predict, signature)

    def logs(self, results: Any) -> dict[str, Any]:
        """Returns the values that `train` or `test` gave by name: floats, or arrays where a metric gives several."""
        numbers, others = results
        return dict(zip(self._names, numbers.numpy().tolist(), strict=True)) | {k: v.numpy() for k, v in others.items()}

    def current(self) -> dict[str, Any]:
        """Returns the metrics as they stand."""
        return keras_seams.pythonify(self.model.get_metrics_result())

    def _compiled(self, function: Any, signature: Any) -> Any:
        if self.model.run_eagerly:
            return function
        jit = bool(self.model.jit_compile) and self.group.size == 1
        return tf.function(function, input_signature=signature, jit_compile=jit, autograph=False)

    def _train(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        undo = [(v, v.value.read_value()) for v in self._moved_by_forward()]
        before = self._metrics.before()
        loss, outputs, metrics, control = self.group.run(self._train_replica, flat, numbers, weight_sums)

        def take_back() -> None:
            for variable, value in undo:
                variable.assign(value)

        def finish() -> None:
            self._metrics.finish(before, numbers[2], loss, outputs, metrics)

        self._unless_stopped(control, finish, take_back)
        return self._results(), control, loss

    def _train_replica(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        (x, y, sample_weight), replica = self._replica(flat, numbers, weight_sums)
        model, optimizer = self.model, self.model.optimizer
        with acting(replica), tf.GradientTape() as tape:
            y_pred = self.call(x, training=True)
            loss = model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
            scaled = optimizer.scale_loss(loss)
        variables = model.trainable_variables
        self.assumptions = replica.assumptions
        local = gradients.of(tape, scaled, variables)
        parts = gradients.parts(replica, local)
        metrics = self._metrics.contributions(replica, y, y_pred, sample_weight)
        control = self._control(numbers)
        parts, control, loss, outputs, metrics = self.group.sum_nested((parts, control, loss, replica.output_losses, metrics))
        grads = gradients.whole(replica, local, parts)
        self._unless_stopped(control, lambda: optimizer.apply(grads, variables), lambda: None)
        return loss, outputs, metrics, control

    def _test(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        before = self._metrics.before()
        loss, outputs, metrics = self.group.run(self._test_replica, flat, numbers, weight_sums)
        self._metrics.finish(before, numbers[2], loss, outputs, metrics)
        return self._results()

    def _test_replica(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        (x, y, sample_weight), replica = self._replica(flat, numbers, weight_sums)
        with acting(replica):
            y_pred = self.call(x, training=False)
            loss = self.model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False)
        metrics = self._metrics.contributions(replica, y, y_pred, sample_weight)
        return self.group.sum_nested((loss, replica.output_losses, metrics))

    def _predict(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        return self.group.run(self._predict_replica, flat, numbers, weight_sums)

    def _predict_replica(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        (x, _, _), replica = self._replica(flat, numbers, weight_sums)
        with acting(replica):
            outputs = self.call(x, training=False)
        return self.group.sum_nested(keras.tree.map_structure(lambda t: replica.placed_rows(tf.convert_to_tensor(t)), outputs))

    def call(self, x: Any, training: bool) -> Any:
        """Returns the model's outputs, as Keras calls it."""
        return self.model(x, training=training) if self.model._call_has_training_arg else self.model(x)

    def _replica(self, flat: Any, numbers: Any, weight_sums: Any) -> tuple[Any, Replica]:
        """Returns (x, y, sample_weight) of this replica's rows, and the replica."""
        flat, rows = self.group.own_rows(flat, numbers)
        data = self.packed(flat)
        weights = [t for t in keras.tree.flatten(data[2]) if t is not None]
        return data, Replica(self.group, rows, {id(t): weight_sums[i] for i, t in enumerate(weights)})

    def packed(self, flat: Any) -> Any:
        """Returns flat tensors as (x, y, sample_weight), nested as the author's data."""
        remaining = iter(flat)
        leaves = [None if leaf is None else next(remaining) for leaf in keras.tree.flatten(self._structure)]
        return keras.tree.pack_sequence_as(self._structure, leaves)

    def _unless_stopped(self, control: Any, act: Any, otherwise: Any) -> None:
        """Acts, except where a worker wished to stop before this step: then no worker takes it."""
        if self.group.has_peers:
            tf.cond(control[0] > 0, otherwise, act)
        else:
            act()

    def _control(self, numbers: Any) -> Any:
        """Returns [3 + replicas]: the wishes to stop, save and leave, and each worker's learning rate at its place."""
        wishes = tf.cast(numbers[3:], keras.config.floatx())
        if not self.group.has_peers:
            return wishes
        rate = tf.cast(self.model.optimizer.learning_rate, keras.config.floatx())
        return tf.concat([wishes, self.group.placed(rate)], 0)

    def _moved_by_forward(self) -> list[Any]:
        """Returns the variables that the forward pass itself moves: statistics and the states of noise."""
        if not self.group.has_peers:
            return []
        return [*self.model.non_trainable_variables, keras_seams.global_seed_generator().state]

    def _results(self) -> Any:
        """Returns the scalars as one vector, which is one copy to the host, and the other results by name."""
        results = {name: tf.convert_to_tensor(value) for name, value in self.model.get_metrics_result().items()}
        scalars = {name: value for name, value in results.items() if value.shape.rank == 0}
        self._names = list(scalars)
        vector = tf.stack([tf.cast(value, keras.config.floatx()) for value in scalars.values()])
        return vector, {name: value for name, value in results.items() if name not in scalars}
