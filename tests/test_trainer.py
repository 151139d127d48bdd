"""Runs on a real local Ray cluster: what they leave, how they fail, and how they go on."""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np
import pytest
import ray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import service
from jobs import digits_vae
from service import environment
from service.errors import DataInvalid, JobFailed, RunInvalid, WorkersDiffer, WorkersLost
from service.storage import restore
from service.storage.commits import CommitLog
from service.storage.entries import Entry
from service.storage.store import Store
from tests import ray_jobs

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SEED = 5
OPTIONS = {"batch_size": 128, "latent": 4, "hidden": 32}
# Keras trains on the first floor(1797 * 0.9) = 1617 rows, 12 batches of 128 and one of 81.
TRAINED_ROWS, STEPS = 1617, 13


class Trained(NamedTuple):
    """A run that ended well: its name, what train returned, and what it printed."""

    run: service.Run
    result: service.Result
    printed: str


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster for all tests here, which service.train finds joined; Ray's token stays on."""
    ray.init(address="local", num_cpus=3, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The storage that the finished runs share."""
    return tmp_path_factory.mktemp("storage")


def trained(job: Any, run: service.Run, **options: Any) -> Trained:
    """Trains, and keeps what the driver printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        result = service.train(job, run, **options)
    return Trained(run, result, printed.getvalue())


@pytest.fixture(scope="module")
def three(place) -> Trained:
    """Three epochs of the autoencoder on two workers."""
    run = service.Run("three", str(place), workers=2, seed=SEED)
    return trained(digits_vae.train, run, epochs=3, **OPTIONS)


@pytest.fixture(scope="module")
def five(place) -> Trained:
    """Five epochs at once of the same run under another name."""
    run = service.Run("five", str(place), workers=2, seed=SEED)
    return trained(digits_vae.train, run, epochs=5, **OPTIONS)


@pytest.fixture(scope="module")
def resumed(three, tmp_path_factory) -> Trained:
    """The three epochs' run, in a copy of its storage, told to train five."""
    storage = tmp_path_factory.mktemp("copy")
    shutil.copytree(three.result.url, storage / "three")
    run = service.Run("three", str(storage), workers=2, seed=SEED)
    return trained(digits_vae.train, run, epochs=5, **OPTIONS)


@pytest.fixture(scope="module")
def killed(place) -> Trained:
    """Three epochs of the same model, with worker 1 killed in the last."""
    run = service.Run("killed", str(place), workers=2, seed=SEED)
    return trained(ray_jobs.vae_killed_once, run, epochs=3, notes=str(place), **OPTIONS)


def entries(result_or_url: Any) -> list[Entry]:
    """Returns the commit log of a run."""
    log = CommitLog(Store(getattr(result_or_url, "url", result_or_url)))
    log.refresh()
    assert log.damaged == {}
    return log.entries()


def attempts(result_or_url: Any) -> int:
    """Returns how many attempts opened the run."""
    return [entry.kind for entry in entries(result_or_url)].count("opened")


def left(result: service.Result) -> dict[str, np.ndarray]:
    """Returns the tensors that the run's one stage left, every byte verified: of the model, the optimizer, metrics, noise."""
    log = CommitLog(Store(result.url))
    log.refresh()
    found = restore.newest(log, stage=1, final=True)
    assert found is not None
    return {name: tensor for name, tensor in found.tensors.items() if not name.startswith("callbacks/")}


def pages(place: Path) -> dict[str, list[int]]:
    """Returns the epochs in the killed run's diary, by the process that wrote them, in order."""
    found: dict[str, list[int]] = {}
    for line in (place / "diary").read_text().splitlines():
        process, epoch = line.split()
        found.setdefault(process, []).append(int(epoch))
    return found


def assert_same_bits(one: service.Result, other: service.Result) -> None:
    """Compares histories and all tensors by their bits."""
    assert one.history == other.history
    ones, others = left(one), left(other)
    assert ones.keys() == others.keys()
    for name, tensor in ones.items():
        assert (tensor.dtype, tensor.shape) == (others[name].dtype, others[name].shape)
        assert tensor.tobytes() == others[name].tobytes(), name


SPEEDS = {"speed/samples_per_second", "speed/step_seconds", "speed/data_wait_seconds"}


def scalars(url: str, kind: str) -> dict[str, list[tuple[int, float]]]:
    """Returns the (step, value) pairs of each number of an epoch, by TensorBoard's own reader."""
    accumulator = EventAccumulator(f"{url}/logs/{kind}", size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, make_ndarray(event.tensor_proto).item()) for event in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]
        if tag.startswith(("epoch_", "speed/"))
    }


def at_epoch_ends(values: list[float]) -> list[tuple[int, float]]:
    """Returns (global step, value): epoch e ends when e * 13 steps are done."""
    return [((epoch + 1) * STEPS, value) for epoch, value in enumerate(values)]


def test_the_history_is_one_plain_float_an_epoch_and_the_metrics_are_the_last(three):
    history, metrics = three.result.history, three.result.metrics
    assert list(history) == ["loss", "val_loss"]
    for values in history.values():
        assert [type(value) for value in values] == [float] * 3
    assert metrics == {name: values[-1] for name, values in history.items()}
    assert three.result.url == f"{three.run.storage}/three"
    assert history["val_loss"][2] < history["val_loss"][0]


def test_the_chief_prints_one_line_an_epoch_in_the_driver(three):
    number = r"\d+\.?\d*"
    lines = [rf"epoch {epoch}/3  {number} s  loss {number}  val_loss {number}" for epoch in (1, 2, 3)]
    assert re.fullmatch("\n".join(lines) + "\n", three.printed), three.printed


def test_run_json_tells_what_was_asked_of_which_code(three):
    about = json.loads(Path(three.result.url, "run.json").read_text())
    source = Path(digits_vae.__file__).read_text()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()

    assert service.Run(**about["run"]) == three.run
    assert about["job"] == "jobs.digits_vae:train"
    assert about["seed"] == SEED
    assert about["options"] == {"epochs": 3, **OPTIONS}
    assert about["versions"] == environment.versions()
    assert about["versions"].keys() >= {"python", "samestep", "keras", "numpy", "ray", "tensorboard"}
    assert about["git_commit"].removesuffix("+changes") == commit
    assert about["command"] == sys.argv
    assert about["source"] == {"sha256": hashlib.sha256(source.encode()).hexdigest(), "text": source}


def test_the_commit_log_tells_the_attempt_its_checkpoints_the_stage_and_the_end(three):
    log = entries(three.result)
    assert [log[0].kind, log[-2].kind, log[-1].kind] == ["opened", "stage", "finished"]
    assert log[0].body == {"workers": 2}
    assert {entry.attempt for entry in log} == {log[0].attempt}
    saved = [(e.body["epoch"], e.body["step"], e.body["final"]) for e in log if e.kind == "checkpoint"]
    # One an epoch and what the stage left; of these four the newest three are kept.
    assert saved == [(2, 2 * STEPS, False), (3, 3 * STEPS, False), (3, 3 * STEPS, True)]
    assert log[-1].body["history"] == three.result.history
    assert log[-1].body["options"] == {"epochs": 3, **OPTIONS}


def test_the_shards_are_those_that_the_checkpoints_name(three):
    named = {}
    for entry in entries(three.result):
        if entry.kind == "checkpoint":
            named |= {shard["file"]: (shard["size"], shard["sha256"]) for shard in entry.body["shards"]}
    folder = Path(three.result.url)
    there = {path.relative_to(folder).as_posix(): path.read_bytes() for path in (folder / "shards").iterdir()}
    assert {file: (len(data), hashlib.sha256(data).hexdigest()) for file, data in there.items()} == named


def test_the_history_files_hold_the_history(three):
    folder, history = Path(three.result.url), three.result.history
    assert json.loads((folder / "history.json").read_text()) == history
    with open(folder / "history.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    assert {name: [float(row[name]) for row in table] for name in list(table[0])[1:]} == history


def test_the_model_comes_back_with_the_weights_that_were_trained(three):
    names = {entry["home"] for entry in json.loads(Path(three.result.url, "model.json").read_text())["custom"]}
    assert names == {"jobs.digits_vae:Sampling", "jobs.digits_vae:EvidenceLayer"}
    loaded, tensors = three.result.model(), left(three.result)
    assert loaded.optimizer.iterations == 3 * STEPS

    built = digits_vae.build(digits_vae.Options(**OPTIONS), seed=0)
    saved = [tensors[name] for name in sorted(tensors) if name.startswith("model/")]
    for variable, tensor in zip(built.variables, saved, strict=True):
        variable.assign(tensor)
    # A .keras file does not hold how far a random generator has come (keras 3.15.1).
    for model in (loaded, built):
        model.get_layer("sample").generator.state.assign([1, 0])
    x = digits_vae.digits()[:100]
    expected = built.predict(x, batch_size=32, verbose=0)
    np.testing.assert_array_equal(loaded.predict(x, batch_size=32, verbose=0), expected)
    loaded.get_layer("sample").generator.state.assign([1, 0])
    np.testing.assert_allclose(service.predict(loaded, x, batch_size=32, verbose=0), expected, rtol=0, atol=1e-6)


def test_tensorboards_reader_finds_the_history_on_global_steps(three):
    history, url = three.result.history, three.result.url
    rate = float(np.float32(0.003))
    shown = scalars(url, "train")
    speeds = {name: [value for _, value in shown.pop(name)] for name in SPEEDS}
    for per_second, seconds in zip(speeds["speed/samples_per_second"], speeds["speed/step_seconds"], strict=True):
        assert per_second * seconds == pytest.approx(TRAINED_ROWS / STEPS, rel=1e-4)  # rows of a batch, on the average
    for waited, seconds in zip(speeds["speed/data_wait_seconds"], speeds["speed/step_seconds"], strict=True):
        assert 0 <= waited <= seconds
    assert shown == {
        "epoch_loss": at_epoch_ends(history["loss"]),
        "epoch_learning_rate": at_epoch_ends([rate] * 3),
    }
    assert scalars(url, "validation") == {"epoch_loss": at_epoch_ends(history["val_loss"])}


def test_a_tensorboard_server_shows_the_run(three):
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", f"{three.result.url}/logs", "--host", "127.0.0.1"]
    # Loads everything once before it listens, so that the first answer is complete.
    command += ["--port", "0", "--load_fast", "false", "--reload_task", "blocking", "--reload_interval", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        address = next(found[0] for line in server.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))

        def answer(path: str, **query: str) -> Any:
            url = f"{address}/data/plugin/scalars/{path}?{urlencode(query)}"
            with urllib.request.urlopen(url, timeout=60) as response:
                return json.load(response)

        tags = {run: set(found) for run, found in answer("tags").items()}
        assert tags == {"train": {"epoch_loss", "epoch_learning_rate", *SPEEDS}, "validation": {"epoch_loss"}}
        for run, name in (("train", "loss"), ("validation", "val_loss")):
            shown = [(step, value) for _, step, value in answer("scalars", run=run, tag="epoch_loss")]
            assert shown == at_epoch_ends(three.result.history[name])
    finally:
        server.terminate()
        server.wait(timeout=60)
        server.stderr.close()


def stock(epochs: int, toward: float | None = None) -> tuple[list[np.ndarray], dict[str, list[float]]]:
    """Stock Keras on one device, the rows in the run's order; `toward` moves each pixel by one unit in the last place."""
    x = digits_vae.digits()
    if toward is not None:
        x = np.nextafter(x, np.float32(toward))
    x, held_out = x[:TRAINED_ROWS], x[TRAINED_ROWS:]
    model = digits_vae.build(digits_vae.Options(**OPTIONS), SEED)
    history: dict[str, list[float]] = {"loss": [], "val_loss": []}
    for epoch in range(epochs):
        rows = x[service.epoch_order(len(x), SEED, epoch, True, 128)]
        logs = model.fit(
            *(rows, None, 128, epoch + 1),
            initial_epoch=epoch,
            shuffle=False,
            validation_data=(held_out,),
            validation_batch_size=128,
            verbose=0,
        ).history
        for name in history:
            history[name] += logs[name]
    return model.get_weights(), history


def largest(ones: Any, others: Any) -> float:
    """Returns the largest difference over max(1, largest entry)."""
    gaps = [np.abs(one - other).max() / max(1.0, np.abs(one).max()) for one, other in zip(ones, others, strict=True)]
    return float(max(gaps))


def test_two_workers_train_to_what_stock_keras_trains_to_on_one_device(three):
    tensors = left(three.result)
    weights = [tensors[name] for name in sorted(tensors) if name.startswith("model/") and "seed_generator" not in name]

    def parts(weights: list[np.ndarray], history: dict[str, list[float]]) -> dict[str, list[np.ndarray]]:
        return {"weights": weights, "history": [np.array(history[name]) for name in ("loss", "val_loss")]}

    ours, one_device = parts(weights, three.result.history), parts(*stock(epochs=3))
    moved = [parts(*stock(epochs=3, toward=way)) for way in (-np.inf, np.inf)]
    # Law 3, float32: over a run at most 4 times as far from stock Keras as stock Keras is from itself
    # with its inputs moved by one unit in the last place; which is known no finer than to 2**-24, by
    # which every float32 is rounded.
    for what, expected in one_device.items():
        own = max(2.0**-24, *(largest(expected, other[what]) for other in moved))
        gap = largest(expected, ours[what])
        print(f"{what}: ours from stock {gap:.2e}; stock from itself {own:.2e}; allowed {4 * own:.2e}")
        assert gap <= 4 * own


def test_the_same_name_again_returns_the_recorded_result_without_training(three):
    before = entries(three.result)
    again = trained(digits_vae.train, three.run, epochs=3, **OPTIONS)
    assert again.result == three.result
    assert "finished" in again.printed and "epoch" not in again.printed
    assert entries(three.result) == before


def test_another_option_is_refused_and_the_difference_shown(three):
    before = entries(three.result)
    with pytest.raises(RunInvalid, match=r"hidden: recorded 32, given 64"):
        service.train(digits_vae.train, three.run, epochs=3, **OPTIONS | {"hidden": 64})
    with pytest.raises(RunInvalid, match=r"seed: recorded 5, given 6"):
        service.train(digits_vae.train, service.Run("three", three.run.storage, workers=2, seed=6), epochs=3, **OPTIONS)
    with pytest.raises(RunInvalid, match=r"job: recorded 'jobs.digits_vae:train', given 'tests.ray_jobs:vae_killed_once'"):
        service.train(ray_jobs.vae_killed_once, three.run, epochs=3, **OPTIONS)
    assert entries(three.result) == before


@pytest.mark.soak
def test_more_epochs_train_only_the_rest_and_equal_a_run_of_all_at_once(resumed, five):
    assert re.findall(r"epoch (\d+)/5", resumed.printed) == ["4", "5"]
    assert_same_bits(resumed.result, five.result)
    assert [type(value) for value in resumed.result.history["loss"]] == [float] * 5
    assert attempts(resumed.result) == 2
    assert attempts(five.result) == 1


@pytest.mark.soak
def test_the_views_of_a_resumed_run_tell_all_epochs(resumed):
    folder, history = Path(resumed.result.url), resumed.result.history
    assert json.loads((folder / "history.json").read_text()) == history
    with open(folder / "history.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4", "5"]
    assert [float(row["val_loss"]) for row in table] == history["val_loss"]
    assert scalars(resumed.result.url, "train")["epoch_loss"] == at_epoch_ends(history["loss"])
    assert scalars(resumed.result.url, "validation")["epoch_loss"] == at_epoch_ends(history["val_loss"])


def test_a_killed_worker_restarts_by_itself_and_ends_with_the_same_bits(killed, three, place):
    assert attempts(killed.result) == 2
    assert_same_bits(killed.result, three.result)
    first, *later = pages(place).values()
    # Killed in epoch 3, numbered 2. Epoch 2 waited until epoch 1 was saved; epoch 2's own checkpoint may not have been.
    assert first == [0, 1, 2]
    assert later[0] in ([1, 2], [2])


def test_what_a_callback_was_made_with_stays_its_own_on_every_worker_after_a_restart(killed, place):
    # The diary was made to be kept by the chief alone: of the first attempt, and of the second.
    assert len(pages(place)) == 2


def test_the_scalars_of_a_killed_run_are_those_of_its_history(killed):
    history = killed.result.history
    for kind, name in (("train", "loss"), ("validation", "val_loss")):
        # An epoch that was trained a second time stands there once.
        assert sorted(scalars(killed.result.url, kind)["epoch_loss"]) == at_epoch_ends(history[name])


def test_what_the_chief_prints_appears_in_the_driver_and_what_others_print_does_not(killed):
    # Once in each of the two attempts.
    assert killed.printed.count("Greetings from worker 0 of 2.\n") == 2
    assert "Greetings from worker 1" not in killed.printed
    assert killed.printed.count("All start again from the last checkpoint.\n") == 1


def test_what_the_job_returns_by_name_is_among_the_metrics(killed):
    last = {name: values[-1] for name, values in killed.result.history.items()}
    assert killed.result.metrics == last | {"workers": 2.0}


@pytest.mark.soak
def test_an_exception_of_the_author_ends_the_run_in_the_first_attempt(tmp_path):
    with pytest.raises(JobFailed) as failure:
        service.train(ray_jobs.raises_on_worker_1, service.Run("raises", str(tmp_path), workers=2))
    message = str(failure.value)
    assert message.startswith("The job raised on worker 1:")
    assert message.rstrip().endswith("ValueError: the author's mistake")
    # The author's own lines, from the job's first on, and none of the service's before it.
    files = re.findall(r'File "(.*)", line \d+, in (\w+)', message)
    assert files[0] == (ray_jobs.__file__, "raises_on_worker_1")
    assert files[-1] == (ray_jobs.__file__, "on_epoch_begin")
    log = entries(str(tmp_path / "raises"))
    assert [entry.kind for entry in log].count("opened") == 1
    assert "finished" not in [entry.kind for entry in log]


@pytest.mark.soak
def test_data_that_differs_between_workers_is_refused_naming_it_and_them_without_a_retry(tmp_path):
    with pytest.raises(WorkersDiffer, match=r"worker 0: x \(workers 1\)\. Give every worker the whole data set"):
        service.train(ray_jobs.draws_its_own_data, service.Run("differs", str(tmp_path), workers=2))
    assert [entry.kind for entry in entries(str(tmp_path / "differs"))] == ["opened"]


@pytest.mark.soak
def test_a_weight_of_nan_is_refused_without_a_retry(tmp_path):
    with pytest.raises(DataInvalid, match=r"sample_weight is .*nan.* at row 3"):
        service.train(ray_jobs.weighs_a_row_nan, service.Run("nan", str(tmp_path), workers=1))
    assert [entry.kind for entry in entries(str(tmp_path / "nan"))] == ["opened"]


@pytest.mark.soak
def test_a_step_that_kills_its_worker_twice_ends_the_run_whatever_max_restarts_allows(tmp_path):
    with pytest.raises(WorkersLost, match=r"twice in the same step, 2 steps into the attempt \(worker 1: ActorDiedError\)"):
        service.train(ray_jobs.killed_always, service.Run("always", str(tmp_path), workers=2, max_restarts=9))
    assert [entry.kind for entry in entries(str(tmp_path / "always"))] == ["opened", "opened"]


ALONE = """
import json, sys
import service
from jobs import digits_vae
run = service.Run("alone", sys.argv[1], workers=0, seed=int(sys.argv[2]))
result = service.train(digits_vae.train, run, epochs=2, **json.loads(sys.argv[3]))
assert "ray" not in sys.modules
print(json.dumps([result.history, result.metrics]))
"""


@pytest.mark.soak
def test_no_workers_train_in_this_process_to_the_same_history_as_one_worker_on_ray(tmp_path):
    environment_of_its_own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    alone = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path), str(SEED), json.dumps(OPTIONS)],
        capture_output=True,
        text=True,
        env=environment_of_its_own,
    )
    assert alone.returncode == 0, alone.stderr
    *lines, last = alone.stdout.splitlines()
    assert [line.partition("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    history, metrics = json.loads(last)

    one = service.train(digits_vae.train, service.Run("one", str(tmp_path), workers=1, seed=SEED), epochs=2, **OPTIONS)
    assert (one.history, one.metrics) == (history, metrics)
    assert_same_bits(one, service.Result(history, metrics, str(tmp_path / "alone")))
    assert [entry.kind for entry in entries(one)] == [entry.kind for entry in entries(str(tmp_path / "alone"))]
    there = [{path.name for path in (tmp_path / name).iterdir()} for name in ("one", "alone")]
    assert there[0] == there[1] | {"output"}  # without Ray the terminal has it
