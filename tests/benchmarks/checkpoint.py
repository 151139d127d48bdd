"""What a checkpoint costs: seconds that training waits for it, and seconds it adds in all.

    python -m tests.benchmarks.checkpoint [--rounds N]

One process trains a model of about 100 MB with its Adam state, 80 steps at a time, and saves
after the 10th, 30th, 50th and 70th, so that steps follow every save, as they do nearly always in
a run: not at all, by Keras's save_weights, by tf.train.Checkpoint, and as a run does (snapshot,
hashed shards, one committed entry). The modes take turns; the table gives the median of the
rounds for each checkpoint, and each mode's part of save_weights.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import tensorflow as tf

from service.cluster.consensus import Council
from service.policies.keeping import KeepPolicy
from service.storage.commits import CommitLog
from service.storage.store import Store
from service.training.saver import Saver
from service.training.state import snapshot

WIDTH, LAYERS, ROWS = 1500, 4, 32
STEPS, EVERY = 80, 20


def main() -> None:
    """Measures and prints the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=6)
    rounds = words.parse_args().rounds
    model, step = _model()
    size = sum(keras.ops.size(v) * 4 for v in (*model.variables, *model.optimizer.variables))
    with tempfile.TemporaryDirectory() as folder:
        modes = _modes(model, folder)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in modes}
        for _ in range(rounds):
            for name, (save, finish) in modes.items():
                times[name].append(_run(step, save, finish))
    print(f"{int(size) / 2**20:.0f} MB of state, {rounds} rounds, {os.cpu_count()} cores, TensorFlow {tf.__version__}")
    saves = STEPS / EVERY
    bare = statistics.median(total for total, _ in times["none"])
    blocked = {name: statistics.median(b for _, b in values) / saves for name, values in times.items()}
    extra = {name: (statistics.median(t for t, _ in values) - bare) / saves for name, values in times.items()}
    print(f"{'':22}{'blocked ms':>12}{'of save_weights':>17}{'total extra ms':>16}{'of save_weights':>17}")
    for name in modes:
        if name != "none":
            shares = [f"{part[name] / part['save_weights']:.1%}" for part in (blocked, extra)]
            print(f"{name:22}{blocked[name] * 1e3:12.1f}{shares[0]:>17}{extra[name] * 1e3:16.1f}{shares[1]:>17}")


def _model() -> tuple[Any, Callable[[], Any]]:
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(WIDTH, "relu") for _ in range(LAYERS)]
    model = keras.Sequential([keras.Input((WIDTH,)), *hidden, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    x, y = tf.random.normal((ROWS, WIDTH)), tf.random.normal((ROWS, 1))
    step = tf.function(lambda: model.train_step((x, y)))
    for _ in range(5):
        step()
    return model, step


def _modes(model: Any, folder: str) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    store = Store(f"{folder}/run")
    saver = Saver(store, CommitLog.open(store), "benchmark", Council(), KeepPolicy(last=2))
    classic = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    place = {"stage": 1, "step": 0, "epoch": 0, "batch": 0, "final": False, "metrics": {}}

    def commit() -> None:
        tensors, state = snapshot({"": model}, [])
        saver.save(tensors, {**place, "state": state})

    def nothing() -> None:
        """There is nothing to save, or to wait for."""

    return {
        "none": (nothing, nothing),
        "save_weights": (lambda: model.save_weights(f"{folder}/w.weights.h5"), nothing),
        "tf.train.Checkpoint": (lambda: classic.write(f"{folder}/classic") and None, nothing),
        "samestep": (commit, saver.wait),
    }


def _run(step: Callable[[], Any], save: Callable[[], None], finish: Callable[[], None]) -> tuple[float, float]:
    """Returns seconds for all steps and saves, and those of them in which training waited for a save."""
    began, blocked = time.perf_counter(), 0.0
    for i in range(1, STEPS + 1):
        float(step()["loss"])
        if i % EVERY == EVERY // 2:
            asked = time.perf_counter()
            save()
            blocked += time.perf_counter() - asked
    finish()
    return time.perf_counter() - began, blocked


if __name__ == "__main__":
    main()
