"""Plain worker processes for tests: started once, then asked to run functions together, without Ray."""

import json
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

ANSWER_SECONDS = 240


class WorkerFailed(Exception):
    """A function raised on a worker; the message carries the traceback, `kind` the exception's class name."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Workers:
    """`count` processes that know each other by TF_CONFIG and have called `connect`."""

    def __init__(self, count: int, floatx: str = "float32") -> None:
        context = multiprocessing.get_context("spawn")
        addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
        self.count = count
        self._ends: list[Connection] = []
        self._processes = []
        for index in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, index, addresses, floatx), daemon=True)
            process.start()
            self._ends.append(ours)
            self._processes.append(process)

    def call(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Returns the results of `function(*args)` on all workers, in order."""
        return self.begin(function, *args)()

    def begin(self, function: Callable[..., Any], *args: Any) -> Callable[[], list[Any]]:
        """Has all workers run `function(*args)` meanwhile; what is returned waits for their results."""
        for end in self._ends:
            end.send((function, args))
        return lambda: self._results(f"{function.__name__}{args}")

    def _results(self, asked: str) -> list[Any]:
        answers = []
        for index, end in enumerate(self._ends):
            if not end.poll(ANSWER_SECONDS):
                others = "\n".join(text for failed, _, text in answers if failed)  # why it may wait
                raise WorkerFailed("TimeoutError", f"worker {index} gave no answer to {asked}\n{others}")
            answers.append(end.recv())
        for failed, kind, value in answers:
            if failed:
                raise WorkerFailed(kind, value)
        return [value for _, _, value in answers]

    def stop(self) -> None:
        """Ends the processes started here."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def free_ports(count: int) -> list[int]:
    """Returns ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _serve(end: Connection, index: int, addresses: list[str], floatx: str) -> None:
    if len(addresses) > 1:
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
    import tensorflow as tf

    from service.cluster import strategy

    strategy.use_threads(1)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy.connect()
    while True:
        function, args = end.recv()
        _reset(floatx)
        try:
            end.send((False, "", function(*args)))
        except Exception as error:
            end.send((True, type(error).__name__, traceback.format_exc()))


def _reset(floatx: str) -> None:
    """Sets what a process has one of, and an earlier test may have set, as a new process has it."""
    import keras
    from tensorflow.python.framework import config

    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    config.disable_op_determinism()  # which Keras leaves XLA out for
