"""The complete description of one run, checked before anything starts."""

import dataclasses
import math
import re
from typing import Any, Literal

from service import secrecy
from service.errors import OptionUnknown, RunInvalid, did_you_mean

ACCELERATORS = ("cpu", "gpu", "tpu")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: what it is called, where it is kept, and what it runs on.

    Attributes:
        name: the run's folder under `storage`. The same name again continues the run.
        storage: a folder or a URL that every worker reaches (`runs`, `gs://bucket/runs`).
        workers: the number of workers; 0 trains in this process, without Ray; a pair (min, max) lets the run grow and
            shrink. With TPUs it is the number of hosts in the slice.
        accelerator: "cpu", "gpu" or "tpu".
        devices_per_worker: accelerators of one worker. Of several workers with several GPUs each GPU has a process of its own,
            which is then what counts as a worker. With TPUs it is the chips of a host.
        topology: a TPU slice's shape, such as "2x4"; the run takes one slice, whole.
        threads_per_worker: TensorFlow's threads for one operation on each worker, which
            are also the CPUs a worker reserves.
        seed: of weights, data order and noise; None draws one and records it.
        save_every_steps: commit a checkpoint each time so many steps are complete.
        save_every_seconds: commit a checkpoint when the last one is so old.
        save_every_epochs: commit a checkpoint each time so many epochs are complete.
        keep: how many of the newest checkpoints stay.
        keep_best: the metric by which one more checkpoint stays, the least for "val_loss", the largest for "max:val_accuracy".
        keep_every_steps: a checkpoint at a multiple of so many steps stays for good.
        max_restarts: how often lost workers are started again without a new checkpoint in between.
        max_seconds: after so long the workers commit where they are and the run stops; the same command goes on.
        stall_seconds: how long anything in training but a step (a callback, a save, compiling, waiting for data) may take, and
            a step at most, before the workers are started again.
        rollbacks: how often training that diverges goes back to the last good checkpoint, and on without the batches that led
            there, before a new good one is committed. It has diverged where a step's loss is NaN or infinite.
        spike: it has too where a step's loss lies so many times its usual spread above the median of the last 50 steps.
        deterministic: ask TensorFlow for the same bits from the same run.

    Raises:
        RunInvalid: at construction, naming the field, its value and what it can be.
    """

    name: str
    storage: str = "runs"
    workers: int | tuple[int, int] = 1
    accelerator: Literal["cpu", "gpu", "tpu"] = "cpu"
    devices_per_worker: int = 1
    topology: str | None = None
    threads_per_worker: int = 1
    seed: int | None = None
    save_every_steps: int | None = None
    save_every_seconds: float | None = None
    save_every_epochs: int | None = 1
    keep: int = 3
    keep_best: str | None = None
    keep_every_steps: int | None = None
    max_restarts: int = 3
    max_seconds: float | None = None
    stall_seconds: float = 600.0
    rollbacks: int = 0
    spike: float | None = None
    deterministic: bool = True

    def __new__(cls, *args: Any, **options: Any) -> "Run":
        known = [field.name for field in dataclasses.fields(cls)]
        for option in options:
            if option not in known:
                raise OptionUnknown(f'Run has no option "{option}". {did_you_mean(option, known)}')
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if isinstance(self.workers, list):  # JSON has no tuples
            object.__setattr__(self, "workers", tuple(self.workers))
        _check_name(self.name)
        _check_workers(self.workers)
        if not isinstance(self.storage, str) or not self.storage:
            raise RunInvalid(f"Run(storage={self.storage!r}): expected a folder or a URL, such as runs or gs://bucket/runs.")
        secrecy.check_url(self.storage)
        if self.storage.startswith("memory://") and self.workers != 0:
            raise RunInvalid(
                f"Run(storage={self.storage!r}, workers={self.workers!r}): memory:// is seen by one process only. "
                "Use a folder or a bucket, or workers=0."
            )
        if self.accelerator not in ACCELERATORS:
            raise RunInvalid(f"Run(accelerator={self.accelerator!r}): {did_you_mean(str(self.accelerator), ACCELERATORS)}")
        for field in ("devices_per_worker", "threads_per_worker", "keep"):
            _check_count(field, getattr(self, field), least=1)
        for field in ("save_every_steps", "save_every_epochs", "keep_every_steps"):
            _check_count(field, getattr(self, field), least=1, optional=True)
        if self.keep_best is not None and (not isinstance(self.keep_best, str) or not self.keep_best.removeprefix("max:")):
            raise RunInvalid(f'Run(keep_best={self.keep_best!r}): expected a metric such as "val_loss" or "max:val_accuracy".')
        _check_count("max_restarts", self.max_restarts, least=0)
        _check_count("rollbacks", self.rollbacks, least=0)
        _check_count("seed", self.seed, least=0, optional=True)
        if self.seed is not None and self.seed >= 2**32:
            raise RunInvalid(f"Run(seed={self.seed}): expected less than 2**32, the range of numpy's generator.")
        for field in ("save_every_seconds", "max_seconds", "stall_seconds"):
            _check_size(field, "seconds", getattr(self, field), optional=field != "stall_seconds")
        _check_size("spike", "how many times the usual spread, such as 20", self.spike, optional=True)
        if self.topology is not None and self.accelerator != "tpu":
            raise RunInvalid(f'Run(topology={self.topology!r}) is a TPU slice\'s shape: it goes with accelerator="tpu".')
        if self.accelerator == "tpu":
            _check_slice(self)
        if self.accelerator == "cpu" and self.devices_per_worker > 1 and self.most_workers > 1:
            raise RunInvalid(
                f"Run(workers={self.workers}, devices_per_worker={self.devices_per_worker}): on CPUs each of several workers "
                "drives one device, or one worker drives several. Give one of the two as 1."
            )

    @property
    def most_workers(self) -> int:
        """The largest number of workers the run may have."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def processes(self) -> int | tuple[int, int]:
        """How many worker processes there are, or (min, max)."""
        each = self.devices_per_worker if self.accelerator == "gpu" and self.most_workers > 1 else 1
        return self.workers * each if isinstance(self.workers, int) else (self.workers[0] * each, self.workers[1] * each)

    @property
    def devices_per_process(self) -> int:
        """How many devices one worker process drives."""
        return 1 if self.accelerator == "gpu" and self.most_workers > 1 else self.devices_per_worker

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values; `Run(**that)` is the same run."""
        return dataclasses.asdict(self)


def chips(topology: str) -> int:
    """Returns how many chips a TPU slice of this shape has; raises ValueError for what is no shape."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*(x[1-9]\d*)?", topology):
        raise ValueError(topology)
    return math.prod(map(int, topology.split("x")))


def _check_slice(run: Run) -> None:
    given = f"Run(workers={run.workers!r}, devices_per_worker={run.devices_per_worker}, topology={run.topology!r})"
    if not isinstance(run.workers, int):
        raise RunInvalid(f"{given}: a TPU slice is used whole, so a run on TPUs neither grows nor shrinks. Give one number.")
    if run.topology is None:
        if run.workers > 1:
            raise RunInvalid(f'{given}: several TPU hosts train as one slice. Give its shape, such as topology="4x4".')
        return
    try:
        in_slice = chips(run.topology)
    except (ValueError, TypeError):
        raise RunInvalid(f"{given}: expected a slice's shape, such as 2x4 or 2x2x2.") from None
    hosts = max(run.workers, 1)
    if hosts * run.devices_per_worker != in_slice:
        raise RunInvalid(
            f"{given}: a slice of {run.topology} has {in_slice} chips, and {hosts} hosts of {run.devices_per_worker} have "
            f"{hosts * run.devices_per_worker}. A run takes one slice, whole: workers is its hosts, devices_per_worker the "
            "chips of a host."
        )


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise RunInvalid(
            f"Run(name={name!r}): expected letters, digits, dots, dashes or underscores (at most 100, no slash), "
            "for it names a folder. Give the place as storage=..."
        )


def _check_workers(workers: object) -> None:
    if isinstance(workers, int) and not isinstance(workers, bool) and workers >= 0:
        return
    if isinstance(workers, tuple) and len(workers) == 2:
        low, high = workers
        if all(isinstance(n, int) and not isinstance(n, bool) for n in workers) and 1 <= low <= high:
            return
    raise RunInvalid(
        f"Run(workers={workers!r}): expected how many worker processes there are: 1 or more, "
        "0 for this process without Ray, or (min, max) with 1 <= min <= max."
    )


def _check_count(field: str, value: object, least: int, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RunInvalid(f"Run({field}={value!r}): expected a whole number, {least} or more{', or None' if optional else ''}.")


def _check_size(field: str, what: str, value: object, optional: bool) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise RunInvalid(f"Run({field}={value!r}): expected {what}, more than 0{', or None' if optional else ''}.")
