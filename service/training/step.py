"""One global batch: forward, backward, one fused sum over the replicas, update."""

from typing import Any

import keras
import tensorflow as tf

from service.cluster.pulse import PULSE
from service.exact import gradients, keras_seams, losses, metrics, noise, normalization
from service.exact.group import Group, ScopeGroup
from service.exact.replica import Replica, acting
from service.training.flat import Inputs, Results
from service.training.traced import Traced

WISHES = 3  # to stop, to save, to leave


class Step:
    """The compiled steps of one model on one group of replicas, for data of one structure.

    Attributes:
        train: takes a step; gives the metrics, what the workers told each other, what the first step compares.
        train_telling: the same, and gives the gradients of the whole batch too, by the weights' paths.
        test: gives the metrics.
        predict: gives the outputs of the whole batch.
        inputs: how the data are nested.
        logs: the values that `train` gave, by name.
        logs_and_loss: these, and the loss of this one batch, the same bits on every worker; None where it is not known.
        test_logs: those that `test` gave; a test_step of the author's own has names of its own.
        assumptions: what the loss was taken for without knowing, see `training.first_step`.
        is_checked: whether that was compared with one device's loss.
        compiler: "XLA" or "TensorFlow", whose noise is not the same.

    Every function takes flat tensors of the replica's rows [b, ...] (of the whole batch
    where a strategy's scope holds the variables), `numbers` [6] int32 (start, count, total, and
    1 to stop before this step, to save after it, to leave after it) and the sums of the weights.
    """

    def __init__(self, model: Any, group: Group, like: Any) -> None:
        self.model, self.group = model, group
        self.inputs, self.results = Inputs(like), Results()
        self.logs, self.logs_and_loss = self.results.by_name, self.results.with_loss
        self.tested = Results()
        self.test_logs = self.tested.by_name
        self._updates: list[metrics.Update] = []
        self.assumptions: list[str] = []
        self._reduced: dict[str, Any] | None = None
        self.is_checked = group.size == 1
        self.compiler = group.compiler or ("XLA" if self._is_jit else "TensorFlow")
        if isinstance(group, ScopeGroup) and model.compiled:
            gradients.let_optimizer_apply(model.optimizer)
        for seams in (losses, noise, normalization, metrics, gradients):
            seams.install()
        keras_seams.global_seed_generator()
        self.numbers = tf.TensorSpec([3 + WISHES], tf.int32)
        signature = [self.inputs.signature, self.numbers, tf.TensorSpec([None], keras.config.floatx())]
        self.train = self._compiled(self._train, signature)
        self.train_telling = self._compiled(self._train_telling, signature)
        self.test = self._compiled(self._test, signature)
        self.predict = self._compiled(self._predict, signature)

    def current(self) -> dict[str, Any]:
        """Returns the metrics as they stand."""
        return keras_seams.pythonify(self.model.get_metrics_result())

    def _compiled(self, function: Any, signature: Any) -> Any:
        if self.model.run_eagerly:
            # Tensors, as a graph and Keras give: what is an array is taken for the same on every replica.
            return lambda *given: function(*tf.nest.map_structure(tf.convert_to_tensor, given))
        made = tf.function(function, input_signature=signature, jit_compile=self._is_jit, autograph=False)
        return PULSE.stepping(Traced(made))

    @property
    def _is_jit(self) -> bool:
        return bool(self.model.jit_compile) and self.group.size == 1 and not self.model.run_eagerly

    def _train(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        undo = [(v, v.value.read_value()) for v in self._moved_by_forward()]
        loss, outputs, sums, control = self.group.run(self._train_replica, flat, numbers, weight_sums)

        def take_back() -> None:
            for variable, value in undo:
                variable.assign(value)

        def finish() -> None:
            metrics.finish(self.model, numbers[2], loss, outputs, self._updates, sums)

        self._unless_stopped(control, finish, take_back)
        return self.results.packed(self.model.get_metrics_result(), loss), control, loss

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
        parts = (gradients.parts(replica, local), normalization.averages(replica))
        metrics.update_compiled(model, replica, y, y_pred, sample_weight)
        told = (self._control(numbers), replica.logged(loss), replica.output_losses, self._contributions(replica))
        (parts, averages), (control, loss, outputs, sums) = self.group.sum_nested((parts, told))
        normalization.settle(replica, averages)
        grads = gradients.whole(replica, local, parts)
        gradients.note(replica, optimizer, grads, variables)
        self._unless_stopped(control, lambda: optimizer.apply(grads, variables), lambda: None)
        return loss, outputs, sums, control

    def _train_telling(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        self._reduced = {}
        try:
            return *self._train(flat, numbers, weight_sums), self._reduced
        finally:
            self._reduced = None

    def _test(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        loss, outputs, sums = self.group.run(self._test_replica, flat, numbers, weight_sums)
        metrics.finish(self.model, numbers[2], loss, outputs, self._updates, sums)
        return self.tested.packed(self.model.get_metrics_result())

    def _test_replica(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        (x, y, sample_weight), replica = self._replica(flat, numbers, weight_sums)
        with acting(replica):
            y_pred = self.call(x, training=False)
            loss = self.model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False)
        metrics.update_compiled(self.model, replica, y, y_pred, sample_weight)
        return self.group.sum_nested((replica.logged(loss), replica.output_losses, self._contributions(replica)))

    def _predict(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        outputs, sums = self.group.run(self._predict_replica, flat, numbers, weight_sums)
        metrics.apply(self._updates, sums)
        return outputs

    def _predict_replica(self, flat: Any, numbers: Any, weight_sums: Any) -> Any:
        (x, _, _), replica = self._replica(flat, numbers, weight_sums)
        with acting(replica):
            outputs = self.model.predict_step(keras.utils.pack_x_y_sample_weight(x))
        outputs = keras.tree.map_structure(lambda t: replica.placed_rows(tf.convert_to_tensor(t)), outputs)
        return self.group.sum_nested((outputs, self._contributions(replica)))

    def call(self, x: Any, training: bool) -> Any:
        """Returns the model's outputs, as Keras calls it."""
        return self.model(x, training=training) if self.model._call_has_training_arg else self.model(x)

    def _replica(self, flat: Any, numbers: Any, weight_sums: Any) -> tuple[Any, Replica]:
        """Returns (x, y, sample_weight) of this replica's rows, and the replica."""
        flat, rows = self.group.own_rows(flat, numbers)
        data = self.inputs.packed(flat)
        replica = Replica(self.group, rows, self.inputs.weight_sums(data, weight_sums), metrics.trackers(self.model))
        replica.reduced = self._reduced
        return data, replica

    def _contributions(self, replica: Replica) -> list[Any]:
        """Returns what the metrics' updates bring to the sum; the updates are kept for after it."""
        self._updates = replica.updates
        return metrics.contributions(replica, replica.updates)

    def _unless_stopped(self, control: Any, act: Any, otherwise: Any) -> None:
        """Acts, except where a worker wished to stop before this step: then no worker takes it."""
        if self.group.has_peers:
            tf.cond(control[0] > 0, otherwise, act)
        else:
            act()

    def _control(self, numbers: Any) -> Any:
        """Returns [3 + replicas]: the wishes to stop, save and leave, and each worker's learning rate at its place."""
        wishes, rate = (tf.cast(t, keras.config.floatx()) for t in (numbers[3:], self.model.optimizer.learning_rate))
        return tf.concat([wishes, self.group.placed(rate)], 0) if self.group.has_peers else wishes

    def _moved_by_forward(self) -> list[Any]:
        """Returns the variables that the forward pass itself moves: statistics and the states of noise."""
        moved = [*self.model.non_trainable_variables, keras_seams.global_seed_generator().state]
        return moved if self.group.has_peers else []
