"""Where each part of a run lives under its URL."""

import re

# Stage 1 keeps its views at the top, where a run with one stage has them; from the
# second stage on they are under stages/02, stages/03, ... with the same names, so that
# TensorBoard on the run's folder shows every stage.
RUN = "run.json"
LEASE = "lease.json"
COMMITS = "commits"
SHARDS = "shards"

ATTEMPT = re.compile(r"[A-Za-z0-9]{1,40}")
LAST_NUMBER = 99_999_999

_COMMIT = re.compile(rf"{COMMITS}/([0-9]{{8}})\.json")
_SHARD = re.compile(rf"{SHARDS}/({ATTEMPT.pattern})-[0-9a-f]{{8}}-[0-9a-f]{{32}}\.safetensors")


def commit(number: int) -> str:
    """Returns the path of an entry of the commit log, numbered from 1."""
    return f"{COMMITS}/{number:08d}.json"


def number_of(path: str) -> int | None:
    """Returns the number in an entry's path, or None where it is no such path."""
    match = _COMMIT.fullmatch(path)
    return int(match[1]) if match and int(match[1]) else None


def shard(attempt: str, unique: str, sha256: str) -> str:
    """Returns the path of a file of tensors: who wrote it, which one, and its content."""
    return f"{SHARDS}/{attempt}-{unique[:8]}-{sha256[:32]}.safetensors"


def attempt_of(path: str) -> str | None:
    """Returns the attempt that wrote a file of tensors, or None where it is no such path."""
    match = _SHARD.fullmatch(path)
    return match[1] if match else None


def is_named_by(path: str, sha256: str) -> bool:
    """Whether a file of tensors has the name of a content."""
    return path.endswith(f"-{sha256[:32]}.safetensors")


def logs(stage: int, kind: str) -> str:
    """Returns the TensorBoard folder of a stage's "train" or "validation"."""
    return f"{_stage(stage)}logs/{kind}"


def history_json(stage: int = 1) -> str:
    """Returns the path of a stage's history as JSON."""
    return f"{_stage(stage)}history.json"


def history_csv(stage: int = 1) -> str:
    """Returns the path of a stage's history as a table, one row an epoch."""
    return f"{_stage(stage)}history.csv"


def model(stage: int = 1, name: str = "") -> str:
    """Returns the path of the model that a stage leaves, or of the one of that name where it trains several."""
    return f"{_stage(stage)}model{name and '-'}{name}.keras"


def model_json(stage: int = 1, name: str = "") -> str:
    """Returns the path of what that model needs to be loaded."""
    return f"{_stage(stage)}model{name and '-'}{name}.json"


def output(worker: int, began: str = "") -> str:
    """Returns the path of what a worker's process that began then printed, or the folder of all that worker's."""
    return f"output/worker-{worker}" + (f"/{began}.log" if began else "")


def stacks(attempt: str, worker: int) -> str:
    """Returns the path of what a stuck worker's threads were doing."""
    return f"stacks/{attempt}-worker-{worker}.txt"


def is_the_run_s(path: str) -> bool:
    """Whether the run itself writes a file of this path, so that a callback must not."""
    first = path.partition("/")[0]
    views = {history_json(), history_csv(), model(), model_json()}
    return path in {RUN, LEASE, *views} or first in {COMMITS, SHARDS, "logs", "stages", "stacks", "output"}


def _stage(stage: int) -> str:
    return "" if stage == 1 else f"stages/{stage:02d}/"
