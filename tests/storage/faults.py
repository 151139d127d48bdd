"""A place whose calls fail on purpose, a clock that is set by hand, and states to save."""

import copy
import threading

import numpy as np

from service.storage import pieces, places, receipts, retries, shards
from service.storage.store import Store


class Clock:
    """Time that passes only by sleeping; each thread's sleep moves it for all."""

    def __init__(self):
        self.now = 0.0
        self.sleeps = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds


_CLOCK = Clock()
PATIENT = retries.Policy(clock=_CLOCK, sleep=_CLOCK.sleep)


class Died(BaseException):
    """The process is killed here: no `except Exception` sees it."""


class Faulty:
    """A place whose `at`-th call (from 1) fails in one way.

    "before": an error, nothing done. "after": done, the reply lost. "down": an error from
    then on. "dies", "dies after": the process ends. "torn": half of the bytes are
    written, by a place that does not keep its promise, and the process ends.
    """

    error = ConnectionResetError("lost")
    WAYS = ("before", "after", "down", "dies", "dies after", "torn")

    def __init__(self, place, at=0, way="before"):
        self.place, self.at, self.way = place, at, way
        self.calls = []
        self.lock = threading.Lock()

    def __getattr__(self, name):
        action = getattr(self.place, name)

        def call(*args):
            with self.lock:
                self.calls.append((name, args[0]))
                number = len(self.calls)
            if not self.at or number < self.at or (number > self.at and self.way in ("before", "after")):
                return action(*args)
            if number > self.at and self.way != "down":
                raise Died
            if self.way in ("after", "dies after"):
                action(*args)
            if self.way == "torn" and name in ("write", "create"):
                data = b"".join(args[1:])
                self.place.write(args[0], data[: len(data) // 2])
            raise (self.error if self.way in ("before", "after", "down") else Died)

        return call


def faulty_store(url, at=0, way="before"):
    """Returns a store at a URL that fails at one call, and the place that counts them."""
    place = Faulty(places.connect(url, {}), at, way)
    return Store(url, retry=PATIENT, connect=lambda url, options: place), place


class Stale(Faulty):
    """A place whose listings lack what was made since `freeze`."""

    frozen = None

    def freeze(self):
        self.frozen = copy.deepcopy(self.place.sizes(""))

    def sizes(self, folder):
        found = self.place.sizes(folder)
        return found if self.frozen is None else {path: size for path, size in found.items() if path in self.frozen}


def tensors_at(step):
    """Returns a state: a frozen table, weights that change each step, and a counter."""
    generator = np.random.default_rng(step)
    return {
        "table": np.arange(64, dtype=np.float32).reshape(8, 8),
        "weights": generator.standard_normal((5, 7)),
        "step": np.array(step, np.int64),
    }


def save(log, step, previous=(), workers=2, stage=1):
    """Saves and commits the state of a step as `workers` workers would; returns the entry."""
    tensors = tensors_at(step)
    sizes = {name: (tensor.size, tensor.itemsize) for name, tensor in tensors.items()}
    parts = [shards.write_shards(log.store, log.attempt, tensors, part, previous) for part in pieces.share(sizes, workers)]
    body = {"stage": stage, "step": step, "epoch": 0, "shards": receipts.merge(parts), "state": {"best": float("inf")}}
    return log.append("checkpoint", body)


def same(found, step):
    """Whether tensors are bit by bit the state of a step."""
    wanted = tensors_at(step)
    return found.keys() == wanted.keys() and all(
        found[name].dtype == value.dtype and found[name].shape == value.shape and found[name].tobytes() == value.tobytes()
        for name, value in wanted.items()
    )
