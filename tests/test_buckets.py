"""Whole runs in buckets: gs:// on a real bucket server on loopback, s3:// on moto's, and memory:// in one process.

The workers and commands are processes of their own that find the servers as an author's would, by
environment variables alone.
"""

import csv
import io
import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import service
from service import record
from service.errors import RunInvalid
from service.run import Run
from service.storage import layout, receipts
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests import attempts
from tests.buckets import gs_options, s3_options
from tests.processes import Workers

pytestmark = pytest.mark.processes
HERE = Path(__file__).parents[1]
EPOCHS, STEPS = 3, {"save_every_steps": 2}
# 45 rows less the last fifth are 36: five batches of 8 an epoch, the last of them with 4 rows.
STEPS_AN_EPOCH = 5
CONTRACT = "|".join(
    [
        r"run\.json",
        r"commits/\d{8}\.json",
        r"shards/[^/]+\.safetensors",
        r"logs/(train/|validation/)?events\.out\.tfevents\.[^/]+",
        r"history\.(json|csv)",
        r"model\.(keras|json)",
    ]
)


@pytest.fixture(scope="module")
def servers(gcs_address, s3_address):
    """The environment in which gs:// and s3:// are the two servers, also for processes started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", gcs_address)
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        # fsspec reads these when it is imported: in new processes, not in this one.
        patch.setenv("FSSPEC_GS", json.dumps({"token": "anon", "project": "project"}))
        patch.setenv("FSSPEC_S3", json.dumps(s3_options(s3_address)))
        yield {"gs": gs_options(gcs_address), "s3": s3_options(s3_address)}


@pytest.fixture(scope="module")
def two(servers):
    workers = Workers(2)
    yield workers
    workers.stop()


@pytest.fixture(scope="module")
def whole(two, tmp_path_factory):
    """What each worker's uninterrupted run leaves on a folder."""
    return two.call(attempts.train, str(tmp_path_factory.mktemp("whole")), None, EPOCHS, STEPS)


@pytest.fixture(scope="module", params=["gs", pytest.param("s3", marks=pytest.mark.soak)])
def interrupted(request, servers, two):
    """A bucket's run that was interrupted in epoch 1 and then went on: its store, both attempts' answers."""
    storage = f"{request.param}://bucket/{uuid.uuid4().hex}"
    store = Store(f"{storage}/test", **servers[request.param])
    record.begin(store, Run("test", storage, workers=2, seed=5, **STEPS), "tests.attempts:train", {}, "")
    moment = ("batch_end", 1, 3)
    assert two.call(attempts.train, store.url, moment, EPOCHS, STEPS) == [str(moment)] * 2
    return store, two.call(attempts.train, store.url, None, EPOCHS, STEPS)


def ask(*words):
    """Returns what `python -m service` printed, in a new process that has the servers' environment."""
    done = subprocess.run([sys.executable, "-m", "service", *words], capture_output=True, text=True, cwd=HERE, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def load(url):
    """Returns the variables of the model that a run left; called in a worker."""
    model = service.load_model(url)
    return [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]


def entries(store):
    log = CommitLog(store)
    log.refresh()
    assert log.damaged == {}
    return log.entries()


def test_an_interrupted_run_in_a_bucket_ends_with_the_bits_of_a_whole_one_on_a_folder(interrupted, whole):
    for mine, other in zip(interrupted[1], whole, strict=True):
        assert {name: value for name, value in mine.items() if name != "variables"} == {
            name: value for name, value in other.items() if name != "variables"
        }
        for one, another in zip(mine["variables"], other["variables"], strict=True):
            assert (one.dtype, one.tobytes()) == (another.dtype, another.tobytes())


def test_the_second_attempt_took_up_what_the_first_had_committed(interrupted):
    log = entries(interrupted[0])
    first, second = (entry.attempt for entry in log if entry.kind == "opened")
    # Interrupted after step 9 with one checkpoint every two steps: step 8 was being committed.
    steps = {name: [e.body["step"] for e in log if e.kind == "checkpoint" and e.attempt == name] for name in (first, second)}
    assert all(step <= 8 for step in steps[first])
    assert steps[second][-1] == EPOCHS * STEPS_AN_EPOCH and min(steps[second]) > 8
    assert [entry.kind for entry in log][-1] == "finished"


def test_the_folder_of_a_bucket_holds_what_the_contract_names_and_nothing_else(interrupted):
    store, _ = interrupted
    there = store.sizes()
    assert [path for path in there if not re.fullmatch(CONTRACT, path)] == []
    kinds = {re.sub(r"\d{8}|[^/]+\.safetensors|(?<=events)\..*", "*", path) for path in there}
    assert kinds == {
        *("run.json", "commits/*.json", "shards/*", "logs/events*", "logs/train/events*", "logs/validation/events*"),
        *("history.json", "history.csv", "model.keras", "model.json"),
    }
    assert all(size > 0 for size in there.values())
    named = {file for e in entries(store) if e.kind == "checkpoint" for file in receipts.files(e.body["shards"])}
    orphans = {*store.list(layout.SHARDS)} - named
    # The first attempt may have been stopped between a checkpoint's files and its entry.
    opened = next(entry.attempt for entry in entries(store) if entry.kind == "opened")
    assert {layout.attempt_of(path) for path in orphans} <= {opened}


def test_the_histories_and_event_files_in_a_bucket_are_whole(interrupted, whole, tmp_path):
    store, _ = interrupted
    history = whole[0]["histories"][0]
    assert json.loads(store.read("history.json")) == history
    table = [*csv.DictReader(io.StringIO(store.read("history.csv").decode()))]
    assert [row["epoch"] for row in table] == [str(epoch + 1) for epoch in range(EPOCHS)]
    assert {name: [float(row[name]) for row in table] for name in history} == history
    for path in store.list("logs"):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(store.read(path))
    for kind, name in (("train", "loss"), ("validation", "val_loss")):
        events = EventAccumulator(str(tmp_path / "logs" / kind), size_guidance={"tensors": 0})
        events.Reload()
        found = [(event.step, make_ndarray(event.tensor_proto).item()) for event in events.Tensors("epoch_loss")]
        expected = [(STEPS_AN_EPOCH * (e + 1), float(np.float32(v))) for e, v in enumerate(history[name])]
        assert sorted(found) == expected


def test_the_model_of_a_bucket_loads_by_its_url_with_the_weights_that_were_trained(interrupted, two):
    store, left = interrupted
    for loaded, trained in zip(two.call(load, store.url), left, strict=True):
        for variable, expected in zip(loaded, trained["variables"], strict=True):
            np.testing.assert_array_equal(variable, expected)


def test_the_command_line_shows_and_verifies_a_run_in_a_bucket(interrupted):
    store, _ = interrupted
    shown = json.loads(ask("show", store.url, "--json"))
    assert shown["url"] == store.url
    checked = json.loads(ask("verify", store.url, "--json"))
    assert checked["whole"] and {"run.json", "commit log"} <= {check["what"] for check in checked["checks"]}
    assert "test" in ask("runs", store.url.rpartition("/")[0])


def test_a_job_module_trains_in_a_bucket_and_goes_on_there_for_more_epochs(servers):
    storage = f"gs://bucket/{uuid.uuid4().hex}"
    for epochs in ("1", "2"):
        words = ["--workers", "0", "--storage", storage, "--name", "vae-1", "--epochs", epochs, "--hidden", "8"]
        done = subprocess.run(
            [sys.executable, "-m", "jobs.digits_vae", *words], capture_output=True, text=True, cwd=HERE, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.findall(r"^epoch (\d)/", done.stdout, re.MULTILINE) == [epochs]
        assert f"{storage}/vae-1" in done.stdout.splitlines()
    log = entries(Store(f"{storage}/vae-1", **servers["gs"]))
    assert [entry.kind for entry in log].count("opened") == 2
    assert [entry.kind for entry in log].count("finished") == 2
    assert not Store(f"{storage}/vae-1", **servers["gs"]).exists(layout.LEASE)


IN_MEMORY = """
import numpy as np
import service
from jobs import digits_vae

def trained(epochs):
    run = service.Run("vae", "memory://runs", workers=0, seed=5)
    return service.train(digits_vae.train, run, epochs=epochs, hidden=8)

one = trained(1)
again = trained(1)
assert again == one
two = trained(2)
assert two.history["loss"][:1] == one.history["loss"] and len(two.history["loss"]) == 2
assert two.model().optimizer.iterations == 26
print(two.url)
"""


@pytest.mark.soak
def test_memory_holds_a_run_of_one_process_and_goes_on_in_it():
    alone = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", IN_MEMORY], capture_output=True, text=True, cwd=HERE, timeout=240, env=alone)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    # The first run's epoch, its recorded result, then the second epoch alone.
    assert [line.partition("  ")[0] for line in lines[:-1]] == [
        *("epoch 1/1", 'Run "vae" is finished; this is its recorded result.', "epoch 2/2"),
    ]
    assert lines[-1] == "memory://runs/vae"


@pytest.mark.parametrize("workers", [1, 2, (1, 2)])
def test_memory_is_refused_where_several_processes_would_have_to_see_it(workers):
    with pytest.raises(RunInvalid, match=r"memory:// is seen by one process only.*workers=0"):
        Run("vae", "memory://runs", workers=workers)
