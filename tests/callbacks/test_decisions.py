"""Our callbacks decide as stock Keras's, over random sequences of a watched number; and as one, on several workers."""

import contextlib
import random
import threading
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import service.callbacks
from service.training import loop
from service.training.plan import Batch
from service.training.start import Start


def sequence(draw, epochs=14):
    """Returns a number for each epoch: a walk with plateaus, ties and an occasional NaN, as float32 metrics are."""
    value, found = draw.uniform(0, 2), []
    for _ in range(epochs):
        value += draw.choice([0.0, 0.0, draw.gauss(0, 0.3), 1e-4, -1e-4])
        found.append(float("nan") if draw.random() < 0.02 else float(np.float32(value)))
    return found


def followed(callback, values):
    """Returns, epoch by epoch, what the callback knows, the rate, and whether it stopped; its model only holds those."""
    weights = [0]
    model = SimpleNamespace(
        optimizer=SimpleNamespace(learning_rate=0.1, name="sgd"),
        stop_training=False,
        get_weights=lambda: list(weights),
        set_weights=lambda given: weights.__setitem__(slice(None), given),
    )
    callback.set_model(model)
    callback.on_train_begin()
    seen = []
    for epoch, value in enumerate(values):
        weights[0] = epoch
        callback.on_epoch_end(epoch, {"val_loss": value})
        names = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter", "best_weights")
        seen.append(
            [repr(getattr(callback, name, None)) for name in names] + [model.optimizer.learning_rate, model.stop_training]
        )
        if model.stop_training:
            break
    with contextlib.redirect_stdout(None):
        callback.on_train_end()
    return seen, weights


def test_early_stopping_decides_as_keras_s():
    draw = random.Random(5)
    for _ in range(1500):
        how = {
            "patience": draw.randint(0, 4),
            "min_delta": draw.choice([0, 0, 1e-4, 0.1]),
            "mode": draw.choice(["min", "max"]),
            "baseline": draw.choice([None, None, draw.uniform(0, 2)]),
            "start_from_epoch": draw.choice([0, 0, 2, 5]),
            "restore_best_weights": draw.random() < 0.5,
        }
        values = sequence(draw)
        ours, stock = (kind("val_loss", **how) for kind in (service.callbacks.EarlyStopping, keras.callbacks.EarlyStopping))
        assert followed(ours, values) == followed(stock, values), (how, values)


def test_reduce_lr_on_plateau_decides_as_keras_s():
    draw = random.Random(6)
    for _ in range(1500):
        how = {
            "patience": draw.randint(1, 4),
            "factor": draw.choice([0.1, 0.5, 0.9]),
            "min_delta": draw.choice([0, 1e-4, 0.1]),
            "mode": draw.choice(["min", "max"]),
            "cooldown": draw.choice([0, 1, 3]),
            "min_lr": draw.choice([0.0, 0.01, 0.05]),
        }
        values = sequence(draw)
        kinds = service.callbacks.ReduceLROnPlateau, keras.callbacks.ReduceLROnPlateau
        ours, stock = (kind("val_loss", **how) for kind in kinds)
        assert followed(ours, values) == followed(stock, values), (how, values)


class Threads:
    """A council and a step for threads that stand for workers: sums over all of them behind a barrier."""

    def __init__(self, count):
        self.count = count
        self.barrier = threading.Barrier(count, timeout=20)
        self.told = [None] * count

    def together(self, index, value):
        """Returns every worker's value, in order. Collective."""
        self.told[index] = value
        self.barrier.wait()
        everyone = list(self.told)
        self.barrier.wait()
        return everyone


class FakeStep:
    """Takes steps that only add up what the workers wish, with numbers of its own for every worker to see alike."""

    is_checked = True

    def __init__(self, threads, index, model, losses, draw):
        self.threads, self.index, self.model, self.losses, self.draw = threads, index, model, losses, draw
        self.group = SimpleNamespace(has_peers=True)
        self.taken = 0

    def train(self, rows, numbers, weight_sums):
        time.sleep(self.draw.choice([0, 0, 0, 0.0005]))  # each worker comes to a step at a time of its own
        wishes = np.sum(self.threads.together(self.index, np.array(numbers[3:], float)), 0)
        self.taken += wishes[0] == 0
        return self.taken, SimpleNamespace(numpy=lambda: wishes), None

    def logs_and_loss(self, taken):
        loss = self.losses[taken % len(self.losses)]
        return {"loss": loss}, loss

    def current(self):
        return {}


class Hasty(keras.callbacks.Callback):
    """Stops at a batch or an epoch of its own, by numbers that only its worker sees."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def on_train_batch_end(self, batch, logs=None):
        if self.draw.random() < 0.03:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.draw.random() < 0.05:
            self.model.stop_training = True


def trial(seed):
    """Returns what each of several workers did: steps, epochs, whether and where the training stopped."""
    draw = random.Random(seed)
    count, steps, epochs = draw.randint(2, 4), draw.randint(1, 5), draw.randint(1, 6)
    losses = [draw.uniform(0, 1) for _ in range(50)]
    threads, left = Threads(count), [None] * count

    def work(index):
        own = random.Random(seed * 10 + index)
        model = SimpleNamespace(stop_training=False, reset_metrics=lambda: None, optimizer=None, trainable_weights=[])
        step = FakeStep(threads, index, model, losses, own)
        council = SimpleNamespace(any=lambda answer: any(threads.together(index, answer)))
        stopping = service.callbacks.EarlyStopping("loss", patience=1, mode="min")
        callbacks = keras.callbacks.CallbackList([stopping, Hasty(own)], model=model, epochs=epochs, steps=steps)
        batches = [Batch([], np.zeros(6, np.int32), np.zeros(0), list) for _ in range(steps)]
        plan = SimpleNamespace(
            batches=lambda group, epoch, first: iter([b._replace(numbers=b.numbers.copy()) for b in batches]),
            is_over=lambda epoch: False,
        )
        ended = []

        def validate(epoch):
            ended.append(epoch)
            return {}

        loop.train(step, plan, callbacks, council, Start(), epochs, validate)
        left[index] = (step.taken, ended, model.stop_training, stopping.stopped_epoch, stopping.best)

    workers = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    return left


@pytest.mark.parametrize("block", range(4))
def test_workers_that_wish_to_stop_at_moments_of_their_own_all_stop_at_one(block):
    for seed in range(block * 250, block * 250 + 250):
        chief, *others = trial(seed)
        assert chief is not None, f"trial {seed}: a worker waits for ever"
        assert all(other == chief for other in others), f"trial {seed}: {[chief, *others]}"
