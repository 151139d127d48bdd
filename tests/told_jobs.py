"""A job whose workers write down what they were given: the job's own package, its environment, and a secret's digest."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import service

PACKAGES = ("keras", "ray", "numpy", "fsspec")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the job is told.

    Attributes:
        notes: a folder for what the workers write.
    """

    notes: str = ""


def given(environment: Mapping[str, str]) -> dict[str, Any]:
    """Returns what a worker should find: this file, the packages that are installed here, and what the environment says."""
    return {
        "source": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "mode": environment.get("SAMESTEP_MODE"),
        "secret": hashlib.sha256(environment.get("HF_TOKEN", "").encode()).hexdigest(),
    }


def train(worker: service.Worker) -> dict[str, float]:
    """Writes down what this worker finds; every worker calls this."""
    Path(worker.options["notes"], f"{worker.index}.json").write_text(json.dumps(given(os.environ)))
    return {"workers": float(worker.count)}


def told(notes: Path) -> dict[int, Any]:
    """Returns what each worker found."""
    return {int(path.stem): json.loads(path.read_text()) for path in notes.glob("*.json")}


if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="told"))
