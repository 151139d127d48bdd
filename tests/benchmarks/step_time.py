"""Milliseconds per training step: stock Keras, this service, a hand-written loop and legacy tf_keras, side by side.

    python -m tests.benchmarks.step_time --rounds 5 --models mlp,cnn --modes stock-1,ours-1

Each round runs every mode once, in fresh processes and in turning order, so that a slow minute of the machine hits
all modes alike. Process i has core i, TensorFlow one thread. A mode's figure is the median over blocks of steps of one
run (step_modes.py); the table has the median, min and max over rounds, and ratios taken within a round. `loss` and
`accuracy`, over all steps, show that modes did the same work. Nothing here asserts a time.
"""

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.benchmarks.step_modes import BATCH, MEASURED_BLOCKS, MODES, STEPS_PER_BLOCK, WARM_UP_BLOCKS

TIMEOUT_SECONDS = 300.0
RATIOS = (("ours-1", "stock-1"), ("ours-2", "raw-2"))
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "tf_keras", "numpy", "samestep")


class Report(NamedTuple):
    """What a process printed."""

    milliseconds: float
    loss: float
    accuracy: float


def free_addresses(number: int) -> list[str]:
    sockets = [socket.socket() for _ in range(number)]  # all held at once, so that they differ
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def environments(processes: int) -> list[dict[str, str]]:
    """One environment a process; TF_CONFIG, as the parent may have it, only where there are several."""
    common = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    common |= {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    if processes == 1:
        return [common]
    cluster = {"worker": free_addresses(processes)}
    tasks = [{"type": "worker", "index": index} for index in range(processes)]
    return [common | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks]


def measure(mode: str, model: str) -> Report:
    """Runs a mode once and returns the chief's report; the others step with it, but must have reported as well."""
    children: list[subprocess.Popen[str]] = []

    def end_children() -> None:
        for child in children:
            child.kill()

    alarm = threading.Timer(TIMEOUT_SECONDS, end_children)
    with tempfile.TemporaryFile("w+") as errors:
        try:
            for index, environment in enumerate(environments(MODES[mode].processes)):
                command = [sys.executable, "-m", "tests.benchmarks.step_modes", mode, model, str(index)]
                child = subprocess.Popen(
                    command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
                )
                children.append(child)
            alarm.start()
            lines = [next((line for line in child.stdout or () if line.startswith("{")), "") for child in children]
            is_late = not alarm.is_alive()
        finally:
            alarm.cancel()
            end_children()
            for child in children:
                child.communicate()
        if not all(lines):
            errors.seek(0)
            said = [line.strip() for line in errors if line.strip()]
            why = f"no report within {TIMEOUT_SECONDS:.0f} seconds" if is_late else "a process ended without a report"
            raise RuntimeError(": ".join([why, *said[-1:]]))
    return Report(**json.loads(lines[0]))


def machine_facts() -> str:
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    installed = {each.metadata["Name"].replace("-", "_"): each.version for each in metadata.distributions()}
    versions = [f"{name} {installed[key]}" for name in PACKAGES if (key := name.replace("-", "_")) in installed]
    blocks = ", ".join(f"{steps} steps ({model})" for model, steps in STEPS_PER_BLOCK.items())
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return "\n".join(
        [
            f"{cpu.split(':')[-1].strip()}, {cores} cores, load {load:.1f} before the start",
            f"python {platform.python_version()}, {', '.join(versions)}",
            f"global batch {BATCH}; {MEASURED_BLOCKS} blocks of {blocks} after {WARM_UP_BLOCKS} to warm up",
        ]
    )


def row(label: str, values: list[float], note: str = "") -> str:
    return f"{label:<24} {median(values):>8.2f} {min(values):>8.2f} {max(values):>8.2f}   {note}".rstrip()


def table(model: str, reports: dict[str, list[Report]], failures: dict[str, str]) -> list[str]:
    lines = []
    for mode, runs in reports.items():
        if mode in failures:
            lines.append(f"{model + ' ' + mode:<24} failed: {failures[mode]}")
        else:
            note = f"{runs[-1].loss:.5f}  {runs[-1].accuracy:.5f}"
            lines.append(row(f"{model} {mode}", [run.milliseconds for run in runs], note))
    for ours, theirs in RATIOS:
        if {ours, theirs} <= reports.keys() - failures.keys():
            pairs = zip(reports[ours], reports[theirs], strict=True)
            lines.append(row(f"{model} {ours} / {theirs}", [a.milliseconds / b.milliseconds for a, b in pairs]))
    return lines


def run_rounds(rounds: int, model: str, modes: list[str]) -> list[str]:
    """Returns the model's part of the table; a mode that fails once is not tried again."""
    reports: dict[str, list[Report]] = {mode: [] for mode in modes}
    failures: dict[str, str] = {}
    for number in range(rounds):
        for mode in modes if number % 2 == 0 else reversed(modes):
            if mode not in failures:
                try:
                    reports[mode].append(measure(mode, model))
                except RuntimeError as error:
                    failures[mode] = str(error)
    return table(model, reports, failures)


def names_from(known: Iterable[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(known)}")
        return text.split(",")

    return names


def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds per training step, mode by mode.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=names_from(STEPS_PER_BLOCK), default=list(STEPS_PER_BLOCK), metavar="mlp,cnn")
    parser.add_argument("--modes", type=names_from(MODES), default=list(MODES), metavar=",".join(MODES))
    options = parser.parse_args()
    print(machine_facts())
    print(f"\n{'':<24} {'ms/step':>8} {'min':>8} {'max':>8}   loss     accuracy", flush=True)
    for model in options.models:
        print("\n".join(run_rounds(options.rounds, model, options.modes)), flush=True)


if __name__ == "__main__":
    main()
