"""One writer with an author's options: gradients, outputs, embeddings, graphs, hyperparameters, a profile; and its server."""

import json
import pathlib
import re
import subprocess
import sys
import urllib.parse
import urllib.request

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import service
from service.cluster.notice import Notice
from service.errors import OptionUnknown, RunInvalid
from service.run import Run
from service.storage.store import Store
from service.worker import perform
from tests.processes import Workers

X = np.random.RandomState(0).randn(40, 3).astype("float32")
WORDS = np.random.RandomState(1).randint(0, 6, (40, 2))
Y = X[:, :1] * 2 + 1
# TensorBoard reads gs:// by fsspec only where TensorFlow is not, as in its own image.
SERVER = "import sys, types; sys.modules['tensorboard.compat.notf'] = types.ModuleType('notf'); "
SERVER += "from tensorboard.main import run_main; run_main()"


def build(optimizer=None):
    words, numbers = keras.Input((2,), dtype="int32"), keras.Input((3,))
    table = layers.Flatten()(layers.Embedding(6, 4, name="words")(words))
    model = keras.Model([words, numbers], layers.Dense(1, name="out")(layers.Concatenate()([table, numbers])))
    model.compile(optimizer or keras.optimizers.SGD(0.05), "mse")
    return model


def fit(board, model=None, **how):
    model = model or build()
    given = {"batch_size": 10, "epochs": 2, "validation_split": 0.5, "shuffle": False, "verbose": 0}
    service.fit(model, [WORDS, X], Y, callbacks=[board], **(given | how))
    return model


def tensors(folder, tag):
    """Returns {step: value} of a tag, by TensorBoard's own reader."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return {event.step: make_ndarray(event.tensor_proto) for event in events.Tensors(tag)}


def test_the_histogram_of_a_gradient_is_of_the_whole_batch_s_in_the_first_step_of_an_epoch(tmp_path):
    keras.utils.set_random_seed(1)
    model = build()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model([WORDS[:10], X[:10]]) - Y[:10]) ** 2)
    kernel = model.get_layer("out").kernel
    expected = tape.gradient(loss, kernel.value).numpy()
    fit(service.callbacks.TensorBoard(str(tmp_path), histogram_freq=1, write_grads=True), model)
    found = tensors(tmp_path / "train", f"{kernel.path}/gradient")
    assert sorted(found) == [1, 3]  # the first of two steps in each epoch
    assert (found[1][0, 0], found[1][-1, 1]) == pytest.approx((expected.min(), expected.max()), rel=1e-5)
    assert found[1][:, 2].sum() == expected.size


def test_asking_for_gradients_changes_no_bit_of_the_weights(tmp_path):
    left = []
    for options in ({}, {"histogram_freq": 1, "write_grads": True}):
        keras.utils.set_random_seed(1)
        model = fit(service.callbacks.TensorBoard(str(tmp_path), **options), build(keras.optimizers.Adam()))
        left.append([keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)])
    for one, another in zip(*left, strict=True):
        np.testing.assert_array_equal(one, another)


def test_outputs_on_validation_data_are_counted_whole(tmp_path):
    fit(service.callbacks.TensorBoard(str(tmp_path), histogram_freq=1, batch_size=7))
    found = tensors(tmp_path / "validation", "out/activation")
    assert sorted(found) == [2, 4] and all(table[:, 2].sum() == 20 for table in found.values())  # 20 rows held out


def test_an_update_freq_in_keras_2_s_words_counts_samples(tmp_path):
    fit(service.callbacks.TensorBoard(str(tmp_path / "old"), update_freq=20, batch_size=32), epochs=3)
    fit(service.callbacks.TensorBoard(str(tmp_path / "new"), update_freq=4), epochs=3)
    assert sorted(tensors(tmp_path / "old" / "train", "batch_loss")) == [2, 4, 6]  # 20 samples are two batches of 10
    assert sorted(tensors(tmp_path / "new" / "train", "batch_loss")) == [4]


def test_a_profile_covers_the_steps_that_were_asked_for(tmp_path):
    fit(service.callbacks.TensorBoard(str(tmp_path), profile_batch=(2, 3)))
    (profile,) = tmp_path.rglob("*.xplane.pb")
    assert profile.parts[-4] == "plugins" and profile.stat().st_size > 0


def test_arguments_that_cannot_be_meant_are_refused():
    with pytest.raises(OptionUnknown, match=r'no argument "histogram_frequency"\. Did you mean "histogram_freq"'):
        service.callbacks.TensorBoard("x", histogram_frequency=1)
    with pytest.raises(RunInvalid, match="update_freq='often'"):
        service.callbacks.TensorBoard("x", update_freq="often")


def job(worker):
    """Trains a model whose TensorBoard has every option."""
    (pathlib.Path(worker.options["here"]) / "words.tsv").write_text("".join(f"word {i}\n" for i in range(6)))
    board = keras.callbacks.TensorBoard("ignored", histogram_freq=1, write_images=True, update_freq="batch", embeddings_freq=1)
    board.embeddings_metadata = {"words": f"{worker.options['here']}/words.tsv"}
    model = build(keras.optimizers.SGD(worker.options["rate"]))
    return worker.fit(model, [WORDS, X], Y, batch_size=10, epochs=2, validation_split=0.5, callbacks=[board])


def train(url, options):
    """Makes a run of the job; called in a worker."""
    perform(job, Run("board", url, seed=5), options, Store(url), Notice())


@pytest.fixture(scope="module", params=["folder", "gs"])
def address(request, tmp_path_factory):
    """The address of a TensorBoard without TensorFlow over two runs, one rate each."""
    here = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "gs":
            patch.setenv("STORAGE_EMULATOR_HOST", request.getfixturevalue("gcs_address"))
            patch.setenv("FSSPEC_GS", json.dumps({"token": "anon", "project": "project"}))
        storage = str(here) if request.param == "folder" else f"gs://bucket/{here.name}"
        workers = Workers(1)
        for name, rate in (("slow", 0.01), ("fast", 0.1)):
            workers.call(train, f"{storage}/{name}", {"here": str(here), "rate": rate})
        workers.stop()
        command = [sys.executable, "-c", SERVER, "--logdir", storage, "--host", "127.0.0.1", "--port", "0"]
        command += ["--load_fast", "false", "--reload_task", "blocking", "--reload_interval", "0"]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        yield next(found[0] for line in server.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
    finally:
        server.terminate()
        server.wait(timeout=60)
        server.stderr.close()


def ask(address, path, body=None, **query):
    """Returns what the server answers, as JSON or as text."""
    url = f"{address}/data/plugin/{path}?{urllib.parse.urlencode(query)}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        text = response.read().decode()
    return json.loads(text) if text[:1] in "[{" else text


def test_a_server_without_tensorflow_shows_two_runs_curves(address):
    tags = ask(address, "scalars/tags")
    assert set(tags) == {f"{name}/logs/{kind}" for name in ("slow", "fast") for kind in ("train", "validation")}
    assert {"epoch_loss", "batch_loss", "epoch_learning_rate", "speed/samples_per_second"} <= set(tags["fast/logs/train"])
    shown = ask(address, "scalars/scalars", run="slow/logs/train", tag="epoch_learning_rate")
    assert [(step, value) for _, step, value in shown] == [(2, pytest.approx(0.01)), (4, pytest.approx(0.01))]


def test_it_shows_distributions_images_and_both_graphs(address):
    train, held_out = "fast/logs/train", "fast/logs/validation"
    assert "words/embeddings/histogram" in ask(address, "histograms/tags")[train]
    assert "out/activation" in ask(address, "histograms/tags")[held_out]
    assert "out/kernel/image" in ask(address, "images/tags")[train]
    graphs = ask(address, "graphs/info")[train]
    assert graphs["run_graph"] and "keras" in graphs["tags"]
    layers_shown = ask(address, "graphs/graph", run=train, conceptual="true", tag="keras")
    assert all(f'name: "functional/{name}"' in layers_shown or f'/{name}"' in layers_shown for name in ("words", "out"))


def test_it_compares_the_runs_hyperparameters_in_a_table(address):
    request = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "colParams": [], "startIndex": 0, "sliceSize": 10}
    groups = ask(address, "hparams/session_groups", request)["sessionGroups"]
    assert sorted(group["hparams"]["rate"] for group in groups) == [0.01, 0.1]
    assert {(group["hparams"]["optimizer"], group["hparams"]["batch_size"]) for group in groups} == {("SGD", 10)}


@pytest.mark.parametrize("address", ["folder"], indirect=True)  # the projector reads local files only (TensorBoard 2.21)
def test_it_projects_an_embedding_with_its_words(address):
    (run,) = [run for run in ask(address, "projector/runs") if run.startswith("fast")]
    (entry,) = ask(address, "projector/info", run=run)["embeddings"]
    assert (entry["tensorName"], entry["tensorShape"]) == ("words", [6, 4])
    assert ask(address, "projector/metadata", run=run, name="words").splitlines() == [f"word {i}" for i in range(6)]
