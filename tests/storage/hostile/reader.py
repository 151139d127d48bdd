"""Reads hostile runs in a process of its own, and prints what each gave and what the process did meanwhile.

An audit hook cannot be taken away again, and what is imported late must have been before.
"""

import contextlib
import gc
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

import service
from jobs import digits_vae  # noqa: F401  (so that it is loaded before anything is watched)
from service import cli_runs, cli_verify, environment, record
from service.errors import ServiceError
from service.run import Run
from service.storage import layout, pieces, receipts, restore, retention, shards
from service.storage.commits import CommitLog
from service.storage.store import Store
from service.training import believed, models, state
from tests.storage.hostile.cases import PLANTED
from tests.storage.hostile.table import HOSTILE

# What would be code from data, a way to it, or a way out.
CODE = ("pickle.find_class", "marshal.loads", "exec", "compile", "import", "code.__new__", "function.__new__", "ctypes.dlopen")
OUT = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "urllib.Request")
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown")


class Author(keras.callbacks.Callback):
    """Has a state with an array."""

    def __init__(self) -> None:
        super().__init__()
        self.trace = np.zeros(3)


class Audit:
    """What the process does while it watches.

    Attributes:
        seen: what it must not.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.inside: tuple[str, ...] = ()
        self.outside = ""
        self._is_on = False

    @contextlib.contextmanager
    def watching(self, inside: tuple[str, ...], outside: str) -> Iterator[None]:
        self.seen, self.inside, self.outside, self._is_on = [], inside, outside, True
        try:
            yield
        finally:
            self._is_on = False

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if event in CODE or event in OUT:
            self.seen.append(f"{event} {args[0]!r:.100} of {caller()}")
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            writes = isinstance(args[1], str) and any(c in args[1] for c in "wax+")
            writes = writes or bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
            self._check(event, args[0], -1, reads_only=not writes)
        elif event in CHANGES:
            for path, descriptor in places(event, args):
                self._check(event, path, descriptor)

    def _check(self, event: str, path: Any, descriptor: int, reads_only: bool = False) -> None:
        folder = os.readlink(f"/proc/self/fd/{descriptor}") if isinstance(descriptor, int) and descriptor >= 0 else ""
        place = os.path.join(folder, os.fsdecode(path))
        # A name that is itself a link is replaced or removed, not followed; opened, it is followed.
        real = os.path.realpath(place) if event == "open" else os.path.join(os.path.realpath(os.path.dirname(place)), "x")
        if real.startswith(self.outside) if reads_only else not real.startswith(self.inside):
            self.seen.append(f"{event} {place} of {caller()}")


def places(event: str, args: tuple[Any, ...]) -> list[tuple[Any, int]]:
    """Returns the paths that an event changes, each with the open folder that it is relative to."""
    if event in ("os.rename", "os.link"):
        return [(args[0], args[2]), (args[1], args[3])]
    if event == "os.symlink":
        return [(args[1], args[2])]
    return [(args[0], args[-1] if event in ("os.remove", "os.mkdir", "os.rmdir") else -1)]


def caller() -> str:
    frames = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in traceback.extract_stack(limit=14)[:-2]]
    return " ".join(frames)


def tree(folder: Path) -> dict[str, str]:
    """Returns everything in a folder, with its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path)] = "no file"
    return found


def make_model() -> Any:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(3, "tanh", name="dense")(inputs))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def make_run(folder: Path, model: Any) -> dict[int, dict[str, np.ndarray]]:
    """Makes a run with the checkpoints of steps 1 and 2, finished; returns the tensors of each."""
    store = Store(str(folder))
    begin(store)
    log = CommitLog.open(store, "a1")
    saved, previous = {}, ()
    for step in (1, 2):
        model.trainable_variables[0].assign_add(np.ones((2, 3)))
        author = Author()
        author.trace = np.full(3, step)
        held, plain = state.snapshot({"": model}, [author])
        saved[step] = {name: held[name].copy() for name in held}
        written = [
            shards.write_shards(store, "a1", held, part, previous) for part in (held.share(0, 2), held.share(1, 2)) if part
        ]
        place = {"stage": 1, "step": step, "epoch": step, "batch": 0, "final": False, "metrics": {"val_loss": 0.5}}
        plain["stopping"] = False
        body = {**place, "identity": {"kind": "fit"}, "state": plain, "shards": receipts.merge(written)}
        previous = log.append("checkpoint", body).body["shards"]
    store.write(layout.model(), models.to_bytes(model))
    store.write(layout.model_json(), json.dumps(models.describe(model)).encode())
    return saved


def begin(store: Store) -> None:
    record.begin(store, Run("hostile", str(store.url).rpartition("/")[0], seed=5), "jobs.digits_vae:train", {}, "")


def read_run(folder: Path, model: Any, told: list[str]) -> dict[str, np.ndarray] | None:
    """Does with a run all that is ever done to one; returns the tensors restored."""

    @contextlib.contextmanager
    def telling() -> Iterator[None]:
        try:
            yield
        except ServiceError as error:
            told.append(str(error))

    store, restored, author = Store(str(folder)), None, Author()
    with telling():
        begin(store)
    with telling():
        told += [problem for check in cli_verify.checks(store) for problem in check["problems"]]
    with telling():
        cli_runs.about(store, time.time())
    with telling():
        log = CommitLog.open(store, "b1")
        found = restore.newest(log, 1, final=False)
        told += [*log.damaged.values()]
        if found is not None:
            told += found.skipped.values()
            believed.check(found)
            state.restore_models({"": model}, found.entry.body["state"], found.tensors)
            state.restore_callbacks([author], found.entry.body["state"], found.tensors)
            held, _ = state.snapshot({"": model}, [author])
            restored = {name: held[name].copy() for name in held}
            body = {**found.entry.body, "step": 9}
            everything = [pieces.Piece(name, 0, count) for name, (count, _) in held.sizes.items()]
            body["shards"] = shards.write_shards(store, "b1", held, everything)
            log.append("checkpoint", body)
            retention.delete(log, retention.surplus(log, keep=1))
            retention.sweep(log)
    return restored


def read_model(folder: Path, model: Any, told: list[str]) -> dict[str, np.ndarray] | None:
    try:
        service.load_model(str(folder))
    except ServiceError as error:
        told.append(str(error))
    else:
        told.append("the model was loaded")
    return None


READS = {"run": read_run, "model": read_model}


def attempt(name: str, run: Path, outside: Path, scratch: Path, audit: Audit, model: Any) -> dict[str, Any]:
    """Reads one hostile run; returns what was told and done."""
    told: list[str] = []
    crash, restored = "", None
    before = tree(outside)
    tracemalloc.reset_peak()
    began, clock = tracemalloc.get_traced_memory()[0], time.perf_counter()
    with audit.watching((f"{run}/", f"{scratch}/"), f"{outside}/"), contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            restored = READS[HOSTILE[name].reads](run, model, told)
        except BaseException:
            crash = traceback.format_exc()
    return {
        "told": "\n".join(told),
        "restored": {key: hashlib.sha256(value.tobytes()).hexdigest() for key, value in (restored or {}).items()},
        "crash": crash,
        "seen": audit.seen,
        "printed": printed.getvalue(),
        "outside": tree(outside) == before,
        "left": sorted(map(str, scratch.iterdir())),
        "peak": tracemalloc.get_traced_memory()[1] - began,
        "seconds": time.perf_counter() - clock,
    }


def memory(name: str) -> int:
    """Returns a number of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main(folder: Path) -> None:
    scratch, base = folder / "scratch", folder / "base"
    scratch.mkdir()
    tempfile.tempdir = str(scratch)
    sys.path.insert(0, str(folder))
    (folder / f"{PLANTED}.py").write_text("raise SystemExit('planted code ran')")
    # What a new record tells of this process and its folder takes long, and asks a process; it is not of the run.
    record._git_commit, environment.versions = (lambda: None), dict
    os.fsync = lambda descriptor: None  # no power cut is waited for
    model = make_model()
    saved = make_run(base, model)
    runs = {}
    for i, (name, hostile) in enumerate(HOSTILE.items()):
        runs[name] = folder / f"run{i:03d}", folder / f"outside{i:03d}"
        shutil.copytree(base, runs[name][0])
        runs[name][1].mkdir()
        (runs[name][1] / "secret").write_bytes(b"secret" * 100)
        hostile.spoil(*runs[name])
    for i, _ in enumerate("warm"):  # what is imported late, is now
        warm = folder / f"warm{i}"
        shutil.copytree(base, warm)
        read_run(warm, model, [])
        for url in (warm, folder / "nowhere"):
            with contextlib.suppress(ServiceError, FileNotFoundError):
                service.load_model(str(url))
    audit = Audit()
    sys.addaudithook(audit.hook)
    tracemalloc.start()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident memory is counted from now on
    resident = memory("VmRSS")
    results = {name: attempt(name, *runs[name], scratch, audit, model) for name in HOSTILE}
    hashes = {
        step: {key: hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest() for key, value in tensors.items()}
        for step, tensors in saved.items()
    }
    print(json.dumps({"results": results, "saved": hashes, "grown": memory("VmHWM") - resident}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
