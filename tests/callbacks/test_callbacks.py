"""What every callback keeps to, what is refused at the start, and where files go."""

import csv
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

import service
from service.callbacks import learning_rate, safe, setting, watching
from service.callbacks.model_checkpoint import named
from service.cluster import strategy
from service.errors import ModelInvalid, OptionUnknown, RunInvalid, StorageError, WorkersDiffer
from service.storage import views
from service.storage.store import Store
from service.training.state import callback_state, set_callback_state, unkept

X = np.random.RandomState(0).randn(24, 3).astype("float32")
Y = X[:, :1] * 2 + 1
MADE = {
    "EarlyStopping": lambda c, folder: c(),
    "ReduceLROnPlateau": lambda c, folder: c(),
    "LearningRateScheduler": lambda c, folder: c(lambda epoch, rate: rate * 0.5),
    "TerminateOnNaN": lambda c, folder: c(),
    "ModelCheckpoint": lambda c, folder: c(f"{folder}/at-{{epoch}}.keras"),
    "CSVLogger": lambda c, folder: c(f"{folder}/log.csv"),
    "TensorBoard": lambda c, folder: c(f"{folder}/logs"),
    "BackupAndRestore": lambda c, folder: c(f"{folder}/backup"),
    "History": lambda c, folder: c(),
    "LambdaCallback": lambda c, folder: c(on_epoch_end=lambda epoch, logs: None),
    "Callback": lambda c, folder: c(),
}


def build(metrics=(), optimizer=None):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(optimizer or keras.optimizers.SGD(0.05), "mse", metrics=list(metrics))
    return model


def fit(model, callbacks, **how):
    given = {"batch_size": 8, "epochs": 2, "verbose": 0, "validation_data": (X[:8], Y[:8])}
    return service.fit(model, X, Y, callbacks=callbacks, **(given | how))


@pytest.mark.parametrize("name", MADE)
def test_each_begins_and_ends_twice_and_gives_its_state_and_takes_it(name, tmp_path):
    kind = getattr(service.callbacks, name)
    callback = MADE[name](kind, tmp_path)
    for _ in range(2):
        fit(build(), [callback])
    state = callback_state(callback)
    other = MADE[name](kind, tmp_path)
    for moment in ("set_model", "on_train_begin"):
        getattr(other, moment)(build() if moment == "set_model" else None)
    set_callback_state(other, state)
    taken = callback_state(other)
    if "files" in taken:  # and it has begun event files of its own
        assert state["files"].items() <= taken["files"].items()
        taken["files"] = state["files"]
    assert taken == state
    assert issubclass(kind, getattr(keras.callbacks, name))


def test_importing_the_callbacks_loads_neither_tensorflow_nor_keras():
    code = "import sys, service; dir(service.callbacks); print({'keras', 'tensorflow'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_callback_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(AttributeError, match="no attribute 'EarlyStoping'; there is BackupAndRestore"):
        service.callbacks.EarlyStoping  # noqa: B018  (asking for the name is what raises)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda c: c.ReduceLROnPlateau(patiense=3), OptionUnknown, 'no argument "patiense". Did you mean "patience"'),
        (lambda c: c.ReduceLROnPlateau(epsilon=0.1, min_delta=0.1), RunInvalid, "epsilon beside min_delta"),
        (lambda c: c.ReduceLROnPlateau(factor=1.0), RunInvalid, "factor=1.0: expected a number between 0 and 1"),
        (lambda c: c.EarlyStopping(mode="best"), RunInvalid, "mode='best': expected one of auto, min, max"),
        (lambda c: c.EarlyStopping(patient=1), OptionUnknown, 'Did you mean "patience"'),
        (lambda c: c.ModelCheckpoint("m.keras", save_frequency=3), OptionUnknown, 'Did you mean "save_freq"'),
        (
            lambda c: c.ModelCheckpoint("m.keras", period=2, save_freq=5),
            RunInvalid,
            "period=2 counts epochs and save_freq=5 steps",
        ),
        (lambda c: c.ModelCheckpoint("m.keras", save_format="h5"), RunInvalid, "save_format='h5': expected one of keras"),
        (lambda c: c.ModelCheckpoint("m.keras", save_freq=0), RunInvalid, "save_freq=0: expected a whole number"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(make, error, words):
    with pytest.raises(error) as raised:
        make(service.callbacks)
    assert words in str(raised.value)


def test_epsilon_is_min_delta():
    assert service.callbacks.ReduceLROnPlateau(epsilon=0.25).min_delta == 0.25


@pytest.mark.parametrize("kind", [keras.callbacks.EarlyStopping, service.callbacks.EarlyStopping])
def test_val_acc_means_what_it_meant(kind):
    stopping = kind("val_acc", patience=5)
    fit(build([keras.metrics.BinaryAccuracy(name="accuracy")]), [stopping])
    assert (stopping.monitor, stopping.best) == ("val_accuracy", pytest.approx(stopping.best)) and stopping.best is not None


@pytest.mark.parametrize("kind", [keras.callbacks.EarlyStopping, service.callbacks.EarlyStopping])
def test_auto_holds_for_metrics_whose_direction_keras_does_not_know(kind):
    def my_acc(y, p):
        return keras.ops.mean(keras.ops.abs(y - p), -1)

    stopping = kind("val_my_acc", patience=0)
    fit(build([my_acc]), [stopping], epochs=5)  # falls, so the first epoch was the best of an accuracy
    assert stopping.stopped_epoch == 1


@pytest.mark.parametrize("make", [keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint])
def test_a_name_that_can_never_appear_stops_the_run_after_its_first_step(make, tmp_path):
    how = {"save_best_only": True, "filepath": str(tmp_path / "m.keras")} if make is keras.callbacks.ModelCheckpoint else {}
    steps = []
    seen = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: steps.append(batch))
    with pytest.raises(RunInvalid, match=r'watches "val_los", which the logs will never hold\. Did you mean "val_loss"'):
        fit(build(), [make(monitor="val_los", mode="min", **how), seen])
    assert steps == [0]


def test_without_validation_its_names_cannot_appear():
    with pytest.raises(RunInvalid, match="Names with val_ need validation data"):
        fit(build(), [keras.callbacks.EarlyStopping("val_loss", mode="min")], validation_data=None)


class Adds(keras.callbacks.Callback):
    """An author's callback that adds a name to the logs."""

    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = float(-epoch)


def test_a_name_that_an_author_s_callback_adds_is_watched():
    stopping = service.callbacks.EarlyStopping("score", mode="max", patience=0)
    fit(build(), [Adds(), stopping], epochs=5)
    assert (stopping.stopped_epoch, stopping.best) == (1, 0.0)


def test_a_name_that_a_function_may_add_or_the_model_s_own_test_step_gives_is_not_refused():
    def add(epoch, logs):
        logs["score"] = float(-epoch)

    class Own(keras.Model):
        def test_step(self, data):
            return {**super().test_step(data), "other": keras.ops.sum(data[0])}

    stopping = service.callbacks.EarlyStopping("score", mode="max", patience=0)
    fit(build(), [keras.callbacks.LambdaCallback(on_epoch_end=add), stopping], epochs=5)
    assert stopping.stopped_epoch == 1
    inputs = keras.Input((3,))
    model = Own(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    watching_it = service.callbacks.EarlyStopping("val_other", mode="max", patience=5)
    fit(model, [watching_it])
    assert watching_it.best == pytest.approx(float(X[:8].sum()), rel=1e-5)


def test_an_epoch_without_validation_is_no_bad_epoch(tmp_path):
    stopping = service.callbacks.EarlyStopping(patience=1)
    best = service.callbacks.ModelCheckpoint(str(tmp_path / "best.keras"), save_best_only=True)
    fit(build(), [stopping, best], epochs=6, validation_freq=3)
    assert stopping.stopped_epoch == 0 and stopping.best == best.best


def test_a_schedule_beside_a_callback_that_sets_the_rate_is_refused():
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))
    with pytest.raises(ModelInvalid, match=r"ReduceLROnPlateau sets the learning rate, but .* takes it from a schedule"):
        fit(build(optimizer=optimizer), [service.callbacks.ReduceLROnPlateau()])


def test_a_schedule_of_keras_1_takes_the_epoch_alone():
    model = build()
    fit(model, [service.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (1 + epoch))])
    assert learning_rate.rates_of(model.optimizer) == {"learning_rate": 0.25}


@pytest.mark.parametrize(
    ("given", "weights_only", "save_format", "today"),
    [
        ("best.keras", False, None, ("best.keras", "keras")),
        ("best.h5", False, None, ("best.h5", "keras")),
        ("model.weight", False, None, ("model.keras", "keras")),
        ("model.weight", True, None, ("model.weights.h5", "weights")),
        ("w-{epoch:02d}.hdf5", True, None, ("w-{epoch:02d}.weights.h5", "weights")),
        ("gs://b/best", False, None, ("gs://b/best.keras", "keras")),
        ("served/", False, "tf", ("served", "tf")),
        ("best.v2.ckpt", True, None, ("best.v2.weights.h5", "weights")),
    ],
)
def test_old_names_get_the_format_and_suffix_of_today(given, weights_only, save_format, today):
    assert named(given, weights_only, save_format) == today


def test_period_counts_epochs_and_save_freq_steps(tmp_path):
    kind = service.callbacks.ModelCheckpoint
    fit(
        build(),
        [kind(f"{tmp_path}/p-{{epoch}}.keras", period=2), kind(f"{tmp_path}/s-{{epoch}}-{{batch}}.keras", save_freq=4)],
        epochs=4,
    )
    # 3 steps an epoch: the 4th, 8th and 12th are epoch 2 batch 1, epoch 3 batch 2, epoch 4 batch 3.
    names = {"p-2.keras", "p-4.keras", "s-2-1.keras", "s-3-2.keras", "s-4-3.keras"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_keras_2_s_names_fill_a_path(tmp_path):
    model = build([keras.metrics.BinaryAccuracy(name="accuracy")])
    fit(model, [service.callbacks.ModelCheckpoint(str(tmp_path / "{val_acc:.0f}.keras"))], epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["0.keras"]


def test_a_saved_model_can_be_served(tmp_path):
    import tensorflow as tf

    model = build()
    fit(model, [service.callbacks.ModelCheckpoint(str(tmp_path / "served"), save_format="tf")])
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(X), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


def test_a_better_file_is_not_overwritten_by_a_threshold(tmp_path):
    best = service.callbacks.ModelCheckpoint(str(tmp_path / "b.keras"), save_best_only=True, initial_value_threshold=1e-9)
    fit(build(), [best])
    assert best.best == 1e-9 and not list(tmp_path.iterdir())


def test_a_path_that_the_run_itself_writes_is_refused(tmp_path):
    run = setting.Setting(run=Store(str(tmp_path)))
    for name in ("model.keras", "./model.keras", "logs/best.keras", "shards/best.keras"):
        with pytest.raises(RunInvalid, match=r'is a file that the run itself writes .* such as "best-'):
            service.callbacks.ModelCheckpoint(name).join(run)
    with pytest.raises(RunInvalid, match="leaves"):
        service.callbacks.ModelCheckpoint("../best.keras").join(run)
    assert run.place_of("best.keras", "x") == (str(tmp_path), "best.keras")
    assert run.place_of("gs://b/c/best.keras", "x") == ("gs://b/c", "best.keras")


def test_a_store_that_is_down_costs_a_warning_and_a_retry(tmp_path, monkeypatch, capsys):
    down, write = threading.Event(), Store.write
    down.set()

    def failing(self, path, *parts):
        if down.is_set() and path.endswith(".keras"):
            raise StorageError(f"Could not write {path}: the store is down.")
        return write(self, path, *parts)

    monkeypatch.setattr(Store, "write", failing)
    monkeypatch.setattr(views, "AGAIN_SECONDS", (0.01, 0.01))
    ended = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: down.clear() if epoch == 1 else None)
    fit(build(), [service.callbacks.ModelCheckpoint(f"{tmp_path}/{{epoch}}.keras"), ended], epochs=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.keras", "2.keras", "3.keras"]
    assert capsys.readouterr().out.count("the store is down. It is tried again.") >= 1


def test_what_could_not_be_saved_at_all_is_named_at_the_end(tmp_path, monkeypatch):
    def failing(self, path, *parts):
        raise StorageError(f"Could not write {path}: no room.")

    monkeypatch.setattr(Store, "write", failing)
    with pytest.raises(StorageError, match=r"Could not write (1|2)\.keras: no room\."):
        fit(build(), [service.callbacks.ModelCheckpoint(f"{tmp_path}/{{epoch}}.keras")])


def test_a_csv_log_goes_on_behind_what_was_there(tmp_path):
    path = tmp_path / "log.csv"
    for append in (False, True):
        fit(build(), [keras.callbacks.CSVLogger(str(path), append=append)])
    rows = list(csv.DictReader(path.open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "0", "1"]
    assert set(rows[0]) == {"epoch", "loss", "val_loss"}


def test_keras_s_backup_goes_on_where_it_was_in_a_fit_of_one_process(tmp_path):
    class Died(Exception):
        pass

    def die(epoch, logs):
        if epoch == 2:
            raise Died

    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    with pytest.raises(Died):
        fit(build(), [backup, keras.callbacks.LambdaCallback(on_epoch_begin=die)], epochs=4)
    history = fit(build(), [backup], epochs=4)
    assert history.epoch == [2, 3]


def test_what_a_checkpoint_cannot_hold_is_named():
    class Keeps(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.numbers, self.seen, self.tool, self.lock = [1, 2], {3}, len, threading.Lock()

    assert unkept(Keeps()) == ["seen (a set)", "lock (a lock)"]
    assert unkept(service.callbacks.TensorBoard("x")) == []


def test_who_is_an_author_s_class():
    assert watching.is_authors(Adds()) and not watching.is_authors(keras.callbacks.History())
    assert not watching.is_authors(service.callbacks.EarlyStopping())


def test_what_all_must_call_together_is_refused_in_a_callback_of_the_chief_alone(monkeypatch):
    class Asks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            monkeypatch.setattr(strategy, "worker_count", lambda: 2)
            service.evaluate(self.model, X, Y)

    with pytest.raises(WorkersDiffer, match="in a callback that only the chief runs, but every worker must call it"):
        fit(build(), [service.callbacks.chief_only(Asks())])


def test_a_class_of_the_author_s_own_that_writes_files_as_keras_s_is_called_on_the_chief_alone():
    class Mine(keras.callbacks.CSVLogger):
        pass

    assert safe.is_chief_only(Mine("x.csv")) and not safe.is_chief_only(service.callbacks.CSVLogger("x.csv"))
    assert not safe.is_chief_only(Adds()) and safe.is_chief_only(service.callbacks.chief_only(Adds()))
