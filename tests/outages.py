"""Attempts at runs whose storage fails half-way; run inside worker processes."""

import contextlib
import dataclasses
import io
import json
import os
import time
import urllib.parse
import urllib.request
from typing import Any

import keras
import numpy as np
from keras import layers

from service import cli_verify
from service.attempt import Attempt
from service.cluster import strategy
from service.cluster.notice import Notice
from service.errors import RunInterrupted, StartAgain
from service.run import Run
from service.storage.commits import CommitLog
from service.storage.places import Place, connect
from service.storage.store import Store
from service.training import saver
from tests.attempts import X, Y

EPOCHS, STEPS_AN_EPOCH = 5, 6  # 45 rows in batches of 8
STEPS = EPOCHS * STEPS_AN_EPOCH


class Meanwhile(keras.callbacks.Callback):
    """Does things after steps, by their numbers, on the chief; and takes its time with the steps from one on.

    Before the first of them it has what was saved committed. From then on training is so patient with a save.
    """

    def __init__(
        self,
        acts: dict[int, Any],
        slow_from: int,
        seconds: float,
        attempt: Attempt,
        patience_seconds: float,
        deadline_seconds: float | None,
    ) -> None:
        super().__init__()
        self.acts, self.slow_from, self.seconds, self.attempt = acts, slow_from, seconds, attempt
        self.patience_seconds, self.deadline_seconds = patience_seconds, deadline_seconds
        saver.PATIENCE_SECONDS, saver.AGAIN_SECONDS = 60.0, (0.2, 1.0)

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing: what happens to a storage is no part of a run."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = int(self.model.optimizer.iterations)
        if self.acts and step == min(self.acts):
            saver.PATIENCE_SECONDS = self.patience_seconds
            if self.deadline_seconds is not None:
                self.attempt.store._retry = dataclasses.replace(
                    self.attempt.store._retry, deadline_seconds=self.deadline_seconds
                )
        if self.attempt.council.index == 0 and step in self.acts:
            if step == min(self.acts):
                self.attempt._saver.wait()
            function, *args = self.acts[step]
            if function in (Notice.give, Notice.give_move):
                args = [self.attempt._notice]
            function(*args)
        if step >= self.slow_from:
            time.sleep(self.seconds)


def train(
    store: Store,
    acts: dict[int, Any] | None = None,
    slow_from: int = STEPS,
    seconds: float = 0.1,
    saves: dict[str, Any] | None = None,
    patience_seconds: float = 0.4,
    epochs: int = EPOCHS,
    deadline_seconds: float | None = None,
) -> dict[str, Any]:
    """Makes one attempt at the run; returns what it left, what it printed, and the error that ended it.

    Args:
        acts: by steps, a function and its arguments, called on the chief after that step and before it is saved.
        slow_from: the step from which each takes so many `seconds` longer.
        saves: when checkpoints are due, and which stay; each second step without.
        patience_seconds: how old a save may be, from the first act on, before training goes on without the next one.
        deadline_seconds: how long calls are tried again from the first act on, where that is not for as long as before.

    Collective: every worker calls this.
    """
    keras.utils.set_random_seed(5)
    run = Run("test", storage=store.url, seed=5, **(saves or {"save_every_steps": 2, "keep": 100}))
    printed, said = io.StringIO(), ""
    with contextlib.redirect_stdout(printed):
        attempt = Attempt(run, store, strategy.connect(), Notice())
        model = keras.Sequential([keras.Input((5,)), layers.Dropout(0.3), layers.Dense(6, "tanh"), layers.Dense(2)])
        model.compile(keras.optimizers.Adam(0.05), "mse")
        meanwhile = Meanwhile(acts or {}, slow_from, seconds, attempt, patience_seconds, deadline_seconds)
        try:
            attempt.fit(model, X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=[meanwhile])
            attempt.finish(None, {})
        except (OSError, StartAgain, RunInterrupted) as error:
            said = f"{type(error).__name__}: {error}"
    variables = [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]
    return {"variables": variables, "printed": printed.getvalue(), "error": said}


def loop(store: Store, acts: dict[int, Any], slow_from: int, seconds: float = 0.1) -> dict[str, Any]:
    """Trains in a loop written by hand, as `train` does. Collective: every worker calls this."""
    keras.utils.set_random_seed(5)
    printed, said = io.StringIO(), ""
    with contextlib.redirect_stdout(printed):
        attempt = Attempt(Run("test", storage=store.url, seed=5, keep=100), store, strategy.connect(), Notice())
        model = keras.Sequential([keras.Input((5,)), layers.Dense(2)])
        model.compile(keras.optimizers.Adam(0.05), "mse")
        meanwhile = Meanwhile(acts, slow_from, seconds, attempt, 0.4, None)
        meanwhile.set_model(model)
        try:
            for step in attempt.steps(STEPS, {"model": model}, 2):
                rows = slice(step % 4 * 8, step % 4 * 8 + 9)
                attempt.train_on_batch(model, X[rows], Y[rows])
                meanwhile.on_train_batch_end(0)
            attempt.finish(None, {})
        except OSError as error:
            said = f"{type(error).__name__}: {error}"
    variables = [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]
    return {"variables": variables, "printed": printed.getvalue(), "error": said}


def supersede(store: Store) -> None:
    """Opens the log as another attempt does."""
    CommitLog.open(store)


class Refused:
    """A folder in which nothing can be written by one worker while a file is there."""

    def __init__(self, place: Place, marker: str) -> None:
        self.place, self.marker = place, marker

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            if name in ("write", "create", "delete") and os.path.exists(self.marker):
                raise PermissionError(f"{args[0]} is not allowed here")
            return getattr(self.place, name)(*args)

        return call


class OnWorker:
    """Opens places of which those of one worker refuse."""

    def __init__(self, index: int, marker: str) -> None:
        self.index, self.marker = index, marker

    def __call__(self, url: str, options: dict[str, Any]) -> Place:
        place = connect(url, options)
        resolver = getattr(strategy.connect(), "cluster_resolver", None)
        mine = resolver.task_id if resolver is not None else 0
        return Refused(place, self.marker) if mine == self.index else place  # type: ignore[return-value]


def touch(path: str) -> None:
    """Makes an empty file."""
    with open(path, "xb"):
        pass


def create_bucket(address: str, name: str) -> None:
    """Makes a bucket on a server of fake-gcs-server."""
    _ask("POST", f"{address}/storage/v1/b", json.dumps({"name": name}).encode())


def delete_bucket(address: str, name: str) -> None:
    """Deletes a bucket with all that is in it."""
    found = json.loads(_ask("GET", f"{address}/storage/v1/b/{name}/o"))
    for item in found.get("items", []):
        _ask("DELETE", f"{address}/storage/v1/b/{name}/o/{urllib.parse.quote(item['name'], safe='')}")
    _ask("DELETE", f"{address}/storage/v1/b/{name}")


def _ask(method: str, address: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return reply.read()


def same(mine: dict[str, Any], other: dict[str, Any]) -> None:
    """Compares two attempts' variables bit by bit."""
    for one, another in zip(mine["variables"], other["variables"], strict=True):
        np.testing.assert_array_equal(one, another)


def steps_of(store: Store) -> list[int]:
    """Returns the steps of all checkpoints, the first first; the log is whole."""
    log = CommitLog(store)
    log.refresh()
    assert log.damaged == {}
    return [entry.body["step"] for entry in reversed(log.checkpoints())]


def check_whole(store: Store) -> None:
    """Every byte of every commit is as it was committed."""
    found = list(cli_verify.checks(store))
    assert [check for check in found if check["problems"]] == []
    assert sum(check["what"].startswith("checkpoint") for check in found) == len(steps_of(store))


def alarms(printed: str) -> list[str]:
    """Returns the lines that tell of saving that fails, or works again."""
    return [line for line in printed.splitlines() if line.startswith("Saving ")]
