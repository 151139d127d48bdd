"""What cannot work is refused at once, with the argument's name and what to change."""

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import service
from service.cluster import strategy
from service.errors import DataInvalid, ModelInvalid, RunInvalid

HEAVY = ("tensorflow", "keras", "ray")


class Refusal(NamedTuple):
    """How a process of its own ended: the error's class and text, which heavy packages were loaded, which files made."""

    kind: str
    message: str
    loaded: list[str]
    made: list[str]


SCRIPT = """
import json, sys
{setup}
error = None
try:
    import service
    def job(worker): raise AssertionError("the job was called")
    {call}
except Exception as raised:
    error = raised
loaded = [name for name in {heavy} if name in sys.modules]
print(json.dumps([type(error).__name__, str(error), loaded]))
"""


def refusal(folder: Any, call: str, setup: str = "", **variables: str) -> Refusal:
    """Runs one call of the service in a new process whose working folder is empty."""
    script = SCRIPT.format(setup=setup, call=call, heavy=HEAVY)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env={**kept, **path, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    made = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return Refusal(*json.loads(done.stdout.splitlines()[-1]), made)


def test_the_services_names_load_neither_tensorflow_nor_keras_nor_ray(tmp_path):
    named = refusal(
        tmp_path, "[service.Run, service.Worker, service.train, service.Result, service.command, service.epoch_order]"
    )
    assert named == ("NoneType", "None", [], [])


CPUS = os.cpu_count()
MOVED = """
from service.exact import keras_seams
seam = keras_seams.REDUCE_WEIGHTED_VALUES
keras_seams._REPLACED = (*keras_seams._REPLACED, seam._replace({change}))
"""
REFUSED = {
    "fewer than no workers": ("service.train(job, service.Run('a', workers=-1))", "RunInvalid", "workers=-1"),
    "half a worker": ("service.train(job, service.Run('a', workers=1.5))", "RunInvalid", "workers=1.5"),
    "more workers than CPUs": (
        f"service.train(job, service.Run('a', workers={CPUS + 1}))",
        "ClusterTooSmall",
        f"needs {CPUS + 1} CPUs; this machine has {CPUS} and cannot grow",
    ),
    "more threads than CPUs": (
        f"service.train(job, service.Run('a', threads_per_worker={CPUS + 1}))",
        "ClusterTooSmall",
        f"threads_per_worker={CPUS + 1}) needs {CPUS + 1} CPUs; this machine has {CPUS}",
    ),
    "fewer than no rollbacks": ("service.train(job, service.Run('a', rollbacks=-1))", "RunInvalid", "rollbacks=-1"),
    "a spike of nothing": ("service.train(job, service.Run('a', spike=0))", "RunInvalid", "spike=0): expected how many times"),
    "an unknown accelerator": (
        "service.train(job, service.Run('a', accelerator='gpus'))",
        "RunInvalid",
        "accelerator='gpus'): Did you mean \"gpu\"?",
    ),
    "a name with a slash": ("service.train(job, service.Run('a/b'))", "RunInvalid", "name='a/b'): expected letters"),
    "a name above the storage": ("service.train(job, service.Run('..'))", "RunInvalid", "name='..')"),
    "an unknown scheme": (
        "service.train(job, service.Run('a', storage='gss://bucket/runs'))",
        "RunInvalid",
        'there is no storage "gss://". Did you mean "gs"?',
    ),
    "a storage without exclusive writes": (
        "service.train(job, service.Run('a', storage='ftp://host/runs'))",
        "RunInvalid",
        "ftp:// cannot create a file that exactly one of many writers wins",
    ),
    "an unknown option of the run": (
        "service.train(job, service.Run('a', worker=2))",
        "OptionUnknown",
        'Run has no option "worker". Did you mean "workers"?',
    ),
    "an option that is not JSON": (
        "service.train(job, service.Run('a'), when=object())",
        "OptionUnknown",
        "must be plain JSON values",
    ),
    "an option with keys that are no text": (
        "service.train(job, service.Run('a', workers=0), table={1: 2})",
        "OptionUnknown",
        "must be plain JSON values",
    ),
    "an option that is not a number": (
        "service.train(job, service.Run('a', workers=0), rate=float('nan'))",
        "OptionUnknown",
        "must be plain JSON values",
    ),
    "no function": ("service.train('jobs.digits_vae', service.Run('a'))", "RunInvalid", "expected a function"),
    "no run": ("service.train(job, 'a')", "RunInvalid", "expected a service.Run"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused_before_anything_is_loaded_or_made(case, tmp_path):
    call, kind, words = REFUSED[case]
    refused = refusal(tmp_path, call)
    assert (refused.kind, refused.loaded, refused.made) == (kind, [], []), refused.message
    assert words in refused.message


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TF_USE_LEGACY_KERAS", "1"), ("TF_USE_LEGACY_KERAS", "True"), ("KERAS_BACKEND", "jax")],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_another_keras_is_refused_before_anything_is_loaded_or_made(variable, value, workers, tmp_path):
    refused = refusal(tmp_path, f"service.train(job, service.Run('a', workers={workers}))", **{variable: value})
    assert (refused.kind, refused.loaded, refused.made) == ("EnvironmentUnfit", [], []), refused.message
    assert f"{variable}={value}" in refused.message
    assert "Unset the variable" in refused.message


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (MOVED.format(change="arguments=('values', 'weight')"), "keras.src.losses.loss.reduce_weighted_values of Keras 3.15"),
        (MOVED.format(change="name='reduce_values'"), "keras.src.losses.loss.reduce_values of Keras 3.15"),
        (MOVED.format(change="module='keras.src.losses.gone'"), "keras.src.losses.gone.reduce_weighted_values of Keras 3.15"),
        ("from service.exact import keras_seams; keras_seams.KERAS_VERSION = '3.16'", "pip install 'keras==3.16.*'"),
    ],
    ids=["other arguments", "another name", "another module", "another version"],
)
def test_a_keras_whose_private_names_moved_is_refused_before_anything_is_loaded_or_made(setup, words, tmp_path):
    refused = refusal(tmp_path, "service.train(job, service.Run('a'))", setup)
    assert (refused.kind, refused.loaded, refused.made) == ("EnvironmentUnfit", [], []), refused.message
    assert words in refused.message


def test_the_same_options_as_a_finished_run_are_the_same_however_they_are_written(tmp_path):
    """JSON has no tuples, so a tuple is the list that the record holds."""
    calls = "\n    ".join(
        [
            "service.trainer.record.begin(store := service.trainer.Store('a'), service.Run('a'), None, {'sizes': [8, 8]}, '')",
            "from service.storage.commits import CommitLog",
            "result = {'history': {'loss': [1.0]}, 'metrics': {'loss': 1.0}}",
            "CommitLog.open(store).append('finished', {'options': {'sizes': [8, 8]}, **result})",
            "done = service.train(job, service.Run('a', storage='.', workers=0), sizes=(8, 8))",
            "if done.history != {'loss': [1.0]}: raise ValueError(done)",
        ]
    )
    refused = refusal(tmp_path, calls, setup="import service.trainer")
    assert (refused.kind, refused.message) == ("NoneType", "None")


def small_model(compiled: bool = True) -> keras.Model:
    """Returns a model of 3 inputs and 1 output."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    if compiled:
        model.compile("sgd", "mse")
    return model


X, Y = np.ones((10, 3)), np.ones((10, 1))


def weights(*values: float) -> np.ndarray:
    """Returns the weights of ten rows: those given, then ones."""
    return np.array([*values, *[1.0] * (10 - len(values))])


WRONG_DATA = {
    "x longer than y": (dict(x=X, y=Y[:9]), "x has 10, y has 9 rows"),
    "a dict's arrays": (dict(x={"a": X, "b": X[:8]}, y=Y), r"x\['a'\] has 10, x\['b'\] has 8, y has 10 rows"),
    "too few weights": (dict(x=X, y=Y, sample_weight=np.ones(9)), "y has 10, sample_weight has 9 rows"),
    "a weight of nan": (dict(x=X, y=Y, sample_weight=weights(1, np.nan)), "sample_weight is .*nan.* at row 1"),
    "a weight of infinity": (dict(x=X, y=Y, sample_weight=weights(-np.inf)), "sample_weight is .*-inf.* at row 0"),
    "no rows": (dict(x=X[:0], y=Y[:0]), "no rows"),
    "no x": (dict(x=None), "x is None"),
    "no y": (dict(x=X), r"\by\b"),
    "text": (dict(x=np.array([["a"]], dtype=object), y=Y[:1]), "dtype object"),
    "nothing left to train": (dict(x=X, y=Y, validation_split=0.99), "validation_split=0.99 leaves 0 of 10"),
    "nothing left to validate": (dict(x=X, y=Y, validation_split=1e-17), "validation_split=1e-17 leaves 10 of 10"),
    "all for validation": (dict(x=X, y=Y, validation_split=1.0), "validation_split=1.0"),
    "a negative split": (dict(x=X, y=Y, validation_split=-0.2), "validation_split=-0.2"),
    "validation lengths": (dict(x=X, y=Y, validation_data=(X, Y[:9])), "validation_data"),
    "validation weights": (dict(x=X, y=Y, validation_data=(X, Y, weights(np.nan))), "validation_data"),
    "validation without y": (dict(x=X, y=Y, validation_data=(X,)), "validation_data"),
    "a class that weighs nan": (dict(x=X, y=Y, class_weight={1: np.nan}), "class_weight"),
    "class weights as a list": (dict(x=X, y=Y, class_weight=[1.0, 2.0]), r"class_weight=\[1.0, 2.0\]: expected a dict"),
    "class weights without y": (dict(x=X, class_weight={0: 1.0}), "class_weight=.* needs a y of class numbers"),
    "class weights of two outputs": (dict(x=X, y={"a": Y, "b": Y}, class_weight={0: 1.0}), 'y names "a", which is no output'),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_data_that_cannot_be_trained_on_is_refused_naming_the_argument(case):
    arguments, words = WRONG_DATA[case]
    model = small_model()
    before = model.get_weights()
    with pytest.raises(DataInvalid, match=words):
        service.fit(model, **arguments, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "32", True])
def test_a_batch_size_that_is_no_count_is_refused(batch_size):
    for method in (service.fit, service.evaluate):
        with pytest.raises(RunInvalid, match=f"batch_size={batch_size!r}"):
            method(small_model(), X, Y, batch_size=batch_size, verbose=0)
    with pytest.raises(RunInvalid, match=f"batch_size={batch_size!r}"):
        service.predict(small_model(), X, batch_size=batch_size, verbose=0)


METHODS = {
    "fit": lambda model, *data: service.fit(model, *data, verbose=0),
    "evaluate": lambda model, *data: service.evaluate(model, *data, verbose=0),
    "train_on_batch": service.train_on_batch,
    "test_on_batch": service.test_on_batch,
}


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_was_not_compiled_is_refused_naming_the_method(method):
    model = small_model(compiled=False)
    with pytest.raises(ModelInvalid, match=rf"{model.name}.* is not compiled\. Call model\.compile\(\.\.\.\) before {method}"):
        METHODS[method](model, X, Y)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_keras_model_is_refused_naming_the_method_and_its_class(method):
    with pytest.raises(ModelInvalid, match=rf"service\.{method} got a Dense: expected a Keras 3 model"):
        METHODS[method](keras.layers.Dense(1), X, Y)


def test_predicting_with_what_is_no_keras_model_is_refused():
    with pytest.raises(ModelInvalid, match=r"service\.predict got a Dense"):
        service.predict(keras.layers.Dense(1), X, verbose=0)


@pytest.mark.parametrize("method", ["evaluate", "train_on_batch", "test_on_batch"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((X[:0], Y[:0]), "no rows"),
        ((X, Y[:9]), "x has 10, y has 9"),
        ((X,), r"\by\b"),
    ],
    ids=["an empty batch", "other lengths", "no y"],
)
def test_wrong_data_is_refused_by_every_method(method, data, words):
    with pytest.raises(DataInvalid, match=words):
        METHODS[method](small_model(), *data)


def test_an_empty_batch_cannot_be_predicted():
    with pytest.raises(DataInvalid, match="no rows"):
        service.predict(small_model(), X[:0], verbose=0)


def test_negative_and_zero_weights_are_legal():
    model, values = small_model(), weights(-1.0, 0.0)
    model.set_weights([np.zeros((3, 1)), np.zeros(1)])
    # Every row's loss is (1 - 0)^2 = 1; the sum of weight * loss over 10 rows is (-1 + 0 + 8) / 10.
    history = service.fit(model, X, Y, sample_weight=values, batch_size=10, verbose=0).history
    assert history["loss"] == [pytest.approx(0.7, rel=1e-6)]


def test_a_batch_size_from_numpy_is_legal_as_in_keras():
    assert len(service.fit(small_model(), X, Y, batch_size=np.int64(4), verbose=0).history["loss"]) == 1


def test_a_model_made_without_a_strategy_is_refused_where_there_are_other_workers(monkeypatch):
    addresses = ["127.0.0.1:1", "127.0.0.1:2"]
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(ModelInvalid, match=r"outside a strategy's scope, but TF_CONFIG names 2 workers"):
        service.fit(small_model(), X, Y, verbose=0)


def test_a_model_made_outside_the_scope_of_the_workers_strategy_is_refused(monkeypatch):
    monkeypatch.setattr(strategy, "_connected", [tf.distribute.MirroredStrategy(["CPU:0"])])
    with pytest.raises(ModelInvalid, match=r"outside the scope of the strategy. .*with worker\.strategy\.scope\(\)"):
        service.fit(small_model(), X, Y, verbose=0)


def test_a_relative_folder_in_a_submitted_job_is_refused(monkeypatch):
    # Ray sets this for the driver of a submitted job, whose folder is one that Ray unpacked.
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(RunInvalid, match=r'storage="runs"\) in a submitted job would lie in the folder that Ray unpacked'):
        service.train(print, service.Run("a", storage="runs", workers=1))
