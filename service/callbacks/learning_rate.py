"""Callbacks that set the learning rate."""

import inspect
import numbers
from typing import Any

import keras
import tensorflow as tf

from service.callbacks.watching import better, refusing_unknown, watched
from service.errors import ModelInvalid, RunInvalid
from service.exact import keras_seams
from service.policies.rates import Plateau, ReducePolicy


@refusing_unknown({"epsilon": "min_delta"})
class ReduceLROnPlateau(keras.callbacks.ReduceLROnPlateau):
    """Keras's ReduceLROnPlateau, with its arguments and attributes; `epsilon` is `min_delta`, as in Keras 2.

    Every worker decides by the same global numbers. In an epoch without the number, as one
    without validation, nothing is counted.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        if not 0 < factor < 1:
            raise RunInvalid(f"ReduceLROnPlateau: factor={factor!r}: expected a number between 0 and 1.")
        super().__init__(monitor, factor, patience, verbose, mode, min_delta, cooldown, min_lr)
        self.best: float | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        check_settable(self.model.optimizer, type(self).__name__)
        self.wait, self.best, self.cooldown_counter = Plateau()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        rates = rates_of(self.model.optimizer)
        if logs is not None:
            logs.update(rates)
        value = watched(self, logs)
        if value is None:
            return
        policy = ReducePolicy(better(self), self.factor, self.patience, self.cooldown, self.min_lr)
        after, reduced = policy.after(Plateau(self.wait, self.best, self.cooldown_counter), value, list(rates.values()))
        self.wait, self.best, self.cooldown_counter = after
        for optimizer, old, new in zip(optimizers_of(self.model.optimizer), rates.values(), reduced, strict=True):
            if new != old:
                optimizer.learning_rate = new
                if self.verbose > 0:
                    print(f"\nEpoch {epoch + 1}: the learning rate of {optimizer.name} is reduced to {new:g}.", flush=True)


@refusing_unknown({})
class LearningRateScheduler(keras.callbacks.LearningRateScheduler):
    """Keras's LearningRateScheduler: `schedule(epoch, rate)`, or `schedule(epoch)`, gives each epoch's rate.

    It runs on every worker and must give the same everywhere: take the rate from the epoch, not
    from the time or an unseeded generator.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        check_settable(self.model.optimizer, type(self).__name__)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        for optimizer in optimizers_of(self.model.optimizer):
            given = (epoch, rate_of(optimizer))[: _arguments(self.schedule)]
            rate = self.schedule(*given)
            if not isinstance(rate, numbers.Real) or isinstance(rate, bool):
                raise RunInvalid(f"LearningRateScheduler: the schedule gave {rate!r} for epoch {epoch}; expected a number.")
            optimizer.learning_rate = float(rate)
            if self.verbose > 0:
                print(f"\nEpoch {epoch + 1}: the learning rate of {optimizer.name} is set to {float(rate):g}.", flush=True)


def optimizers_of(optimizer: Any) -> list[Any]:
    """Returns the optimizers that one stands for."""
    return list(getattr(optimizer, "optimizers", [optimizer]))


def rates_of(optimizer: Any) -> dict[str, float]:
    """Returns the learning rates by the names that Keras gives them in the logs."""
    several = optimizers_of(optimizer)
    if several == [optimizer]:
        return {"learning_rate": rate_of(optimizer)}
    return {f"learning_rate_{one.name}": rate_of(one) for one in several}


def rate_of(optimizer: Any) -> float:
    """Returns the optimizer's learning rate now."""
    rate = optimizer.learning_rate
    return float(tf.convert_to_tensor(getattr(rate, "value", rate)) if hasattr(rate, "dtype") else rate)


def check_settable(optimizer: Any, name: str) -> None:
    """Refuses a schedule beside a callback that sets the rate."""
    for one in optimizers_of(optimizer):
        if keras_seams.has_schedule(one):
            raise ModelInvalid(
                f"{name} sets the learning rate, but the optimizer {one.name} takes it from a schedule. Compile with a number "
                "as learning_rate, or leave the callback out."
            )


def _arguments(schedule: Any) -> int:
    """Returns how many arguments a schedule takes: 2, or 1 as Keras 1 had it."""
    try:
        inspect.signature(schedule).bind(0, 0.0)
    except TypeError:
        return 1
    except ValueError:  # a built-in does not tell
        return 2
    return 2
