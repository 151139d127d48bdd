"""How far several replicas end from one device: stock Keras 3, legacy tf_keras and this service, case by case.

    python -m tests.benchmarks.parity --cases optimizers.clipped,losses.dice

Every case is one of tests/exact, with the same data and a last batch of one row. A figure is the largest difference of the
trained weights from one device's, over the largest way that a weight went on one device; beside it for stock Keras that of
the loss in the history, over the loss. Keras 3 and tf_keras are each compared with themselves on one device, under a
MirroredStrategy of two CPU devices; this service with Keras 3. All in float64. An error's class stands where one was raised.
Stock Keras runs in processes of its own, which may crash or hang. Nothing here asserts a figure.
"""

import argparse
import contextlib
import os
import platform
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np

import service
from tests.benchmarks import legacy
from tests.exact import models, parity
from tests.exact.cases import arguments, layers, losses, metrics, optimizers, weights
from tests.processes import WorkerFailed, Workers

MODULES = (models, losses, weights, metrics, optimizers, layers, arguments)
PACKAGES = ("tensorflow-cpu", "keras", "tf_keras", "numpy")
COLUMNS = ("case", "Keras 3, 2 replicas", "its loss", "tf_keras, 2 replicas", "ours, 2 replicas", "ours, 2 workers")
Result = tuple[list[np.ndarray], list[np.ndarray], list[float]]


def stock(name: str, on_replicas: bool = False) -> Result:
    """Returns the weights before and after stock Keras trained, and the losses of the epochs."""
    return _trained(keras.Model.fit, name, on_replicas, is_stock=True)


def ours(name: str, on_replicas: bool = False) -> Result:
    """The same with service.fit. Collective: every worker calls this."""
    return _trained(service.fit, name, on_replicas, is_stock=False)


def _trained(fit: Callable[..., Any], name: str, on_replicas: bool, is_stock: bool) -> Result:
    with parity.mirrored().scope() if on_replicas else contextlib.nullcontext():
        case = parity.made(name)
        if not case.model.built:
            case.model(keras.tree.map_structure(lambda array: array[:1], case.arguments["x"]))
    before = _weights(case.model)
    arguments = {**case.arguments, **(case.corrected if is_stock else {})}
    history = fit(case.model, **arguments, shuffle=False, verbose=0).history
    return before, _weights(case.model), history["loss"]


def _weights(model: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]


class Isolated:
    """Processes that are started anew where one crashed, hung, or left the others behind in an error."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: Workers | None = None

    def begin(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        """Has the processes run `function(*args)` meanwhile; what is returned waits for the result, or the error's name."""
        self._workers = self._workers or Workers(self._count, "float64")
        results = self._workers.begin(function, *args)

        def result() -> Any:
            try:
                return results()[0]
            except WorkerFailed as failed:
                if self._count > 1 or failed.kind == "TimeoutError":
                    self.stop()
                return failed.kind
            except EOFError:
                self.stop()
                return "crash"

        return result

    def stop(self) -> None:
        if self._workers is not None:
            self._workers.stop()
        self._workers = None


def rows(cases: list[str]) -> Iterator[list[str]]:
    """Yields the table's rows, one a case."""
    alone, stock_replicas, legacies, replicas, workers = (Isolated(count) for count in (1, 1, 1, 1, 2))
    try:
        for case in cases:
            begun = [
                alone.begin(stock, case),
                stock_replicas.begin(stock, case, True),
                replicas.begin(ours, case, True),
                workers.begin(ours, case),
                legacies.begin(legacy.distance, short(case)) if short(case) in legacy.CASES else lambda: "-",
            ]
            expected, mirrored, *both, old = [result() for result in begun]
            yield [
                short(case),
                *(moved(expected, mirrored), logged(expected, mirrored)),
                old if isinstance(old, str) else figure(old),
                *(moved(expected, result) for result in both),
            ]
    finally:
        for each in (alone, stock_replicas, legacies, replicas, workers):
            each.stop()


def moved(expected: Result | str, result: Result | str) -> str:
    """Returns the weights' difference over the way they went, or the error."""
    if isinstance(expected, str):
        return f"one device: {expected}"
    return result if isinstance(result, str) else figure(legacy.over_way(expected[0], expected[1], result[1]))


def logged(expected: Result | str, result: Result | str) -> str:
    if isinstance(expected, str) or isinstance(result, str):
        return "-"
    one, other = np.array(expected[2]), np.array(result[2])
    return figure(float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-300)))


def figure(value: float) -> str:
    return "NaN" if not np.isfinite(value) else "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e+")


def short(case: str) -> str:
    return case.removeprefix("tests.exact.").removeprefix("cases.").replace(":", ".")


def machine_facts() -> str:
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    cores = len(os.sched_getaffinity(0))
    return f"{cpu.split(':')[-1].strip()}, {cores} cores; python {platform.python_version()}, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description="How far several replicas end from one device, case by case.")
    parser.add_argument("--cases", default="", metavar="PART,PART", help="only those whose name has one of these parts")
    wanted = parser.parse_args().cases.split(",")
    cases = [case for module in MODULES for case in module.CASES]
    print(machine_facts(), end="\n\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for row in rows([case for case in cases if any(part in short(case) for part in wanted)]):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
