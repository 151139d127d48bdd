"""Keras 2's names lead where they led, or are refused with today's."""

import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest

import service
from service import keras2
from service.errors import ModelInvalid, OptionUnknown, RunInvalid

X, Y = np.ones((6, 3)), np.ones((6, 1))


def unready(outputs=1):
    inputs = keras.Input((3,))
    made = [keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")[:outputs]]
    return keras.Model(inputs, made if outputs > 1 else made[0])


def test_importing_it_loads_neither_tensorflow_nor_keras():
    code = "import sys, service; service.compile, service.batch_mean; print({'keras', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# compile


def test_compile_is_keras_s():
    ours, stock = unready(), unready()
    stock.set_weights(ours.get_weights())
    options = dict(metrics=["mae"], weighted_metrics=["mse"], loss_weights=[2.0], steps_per_execution=1)
    service.compile(ours, "adam", "mse", **options)
    stock.compile("adam", "mse", **options)
    fitted = [model.fit(X, Y, verbose=0, shuffle=False).history for model in (ours, stock)]
    assert fitted[0] == fitted[1]


@pytest.mark.parametrize("mode", [None, "temporal", [None, "temporal"], {"a": "temporal", "b": None}, {"b": "temporal"}])
def test_a_sample_weight_mode_of_keras_2_is_taken(mode):
    service.compile(model := unready(2), "sgd", ["mse", "mse"], sample_weight_mode=mode)
    assert model.compiled


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("temporl", "sample_weight_mode='temporl': expected None or \"temporal\""),
        ({"aa": "temporal"}, 'names "aa", which is no output. Did you mean "a"'),
        (["temporal"], "has 1 entries; the model has 2 outputs"),
    ],
)
def test_a_wrong_sample_weight_mode_is_refused(mode, says):
    with pytest.raises(ModelInvalid, match=says):
        service.compile(unready(2), "sgd", ["mse", "mse"], sample_weight_mode=mode)


@pytest.mark.parametrize("name", [*keras2.LOSSES, "mse", "MSE", "kld", "hinge"])
def test_keras_2_s_losses_have_their_names_still(name):
    service.compile(model := unready(), "sgd", name, metrics=["mae"])
    assert np.isfinite(model.evaluate(X, Y, verbose=0)[0])


@pytest.mark.parametrize("name", [*keras2.METRICS, "acc", "accuracy"])
def test_keras_2_s_metrics_have_their_names_still(name):
    service.compile(model := unready(), "sgd", "mse", metrics=[name], weighted_metrics=[name])
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert len(logs) == 3 and np.isfinite(list(logs.values())).all()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (dict(metric=["mae"]), OptionUnknown, 'no option "metric". Did you mean "metrics"'),
        (dict(loss="msee"), ModelInvalid, 'no loss "msee". Did you mean "mse"'),
        (dict(loss={"a": "mea"}), ModelInvalid, 'no loss "mea"'),
        (dict(target_tensors=[X]), ModelInvalid, "Give the targets to fit, as y"),
    ],
)
def test_what_compile_cannot_mean_is_refused(options, error, says):
    with pytest.raises(error, match=says):
        service.compile(unready(), **{"optimizer": "sgd", "loss": "mse"} | options)


# optimizers


def test_lr_and_decay_are_keras_2_s():
    optimizer = keras2.make_optimizer("SGD", lr=0.1, decay=0.5, momentum=0.9, nesterov=True)
    optimizer.build([keras.Variable(1.0)])
    rates = []
    for step in range(3):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    # lr / (1 + decay * updates): 0.1 / 1, 0.1 / 1.5, 0.1 / 2
    assert rates == pytest.approx([0.1, 0.1 / 1.5, 0.05])
    assert optimizer.momentum == 0.9 and optimizer.nesterov


def test_lr_alone_is_a_rate_that_callbacks_may_set():
    optimizer = keras2.make_optimizer(keras.optimizers.Adam, lr=0.3, decay=0.0, epsilon=None, beta_1=0.8)
    optimizer.learning_rate = 0.2
    assert float(optimizer.learning_rate) == pytest.approx(0.2)
    assert (optimizer.epsilon, optimizer.beta_1) == (keras.config.epsilon(), 0.8)


def test_compile_takes_an_optimizer_as_keras_2_wrote_it_down():
    service.compile(model := unready(), {"class_name": "RMSprop", "config": {"lr": 0.25, "decay": 0.0}}, "mse")
    assert float(model.optimizer.learning_rate) == 0.25
    config = keras.optimizers.serialize(keras.optimizers.Adam(0.5))
    service.compile(model, config, "mse")
    assert float(model.optimizer.learning_rate) == 0.5


def test_an_optimizer_s_unknown_argument_is_refused():
    with pytest.raises(OptionUnknown, match=r'SGD has no argument "momentun". Did you mean "momentum"'):
        keras2.make_optimizer("sgd", momentun=0.9)
    with pytest.raises(ModelInvalid, match=r'no optimizer "adm". Did you mean "adam"'):
        keras2.make_optimizer("adm")


# fit


def test_the_known_names_of_fit_are_keras_s():
    assert list(keras2.FIT) == [
        name for name in inspect.signature(inspect.unwrap(keras.Model.fit)).parameters if name != "self"
    ]


def test_old_names_become_today_s():
    given = dict(nb_epoch=3, batch_size=8, nb_worker=2, pickle_safe=True, max_q_size=5)
    assert keras2.fit_arguments(given) == (
        {"epochs": 3, "batch_size": 8},
        {"workers": 2, "use_multiprocessing": True, "max_queue_size": 5},
    )
    assert keras2.fit_arguments(dict(workers=4, use_multiprocessing=False, max_queue_size=10)) == (
        {},
        {"workers": 4, "use_multiprocessing": False, "max_queue_size": 10},
    )
    assert keras2.fit_arguments(dict(generator=X)) == ({"x": X}, {})


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (dict(samples_per_epoch=1000), RunInvalid, "counts samples; today steps_per_epoch counts batches"),
        (dict(nb_val_samples=100), RunInvalid, "today validation_steps counts batches"),
        (dict(nb_epoch=3, epochs=4), RunInvalid, "nb_epoch=3 is given beside epochs"),
        (dict(nb_worker=3, workers=4), RunInvalid, "nb_worker=3 is given beside workers"),
        (dict(epoch=3), OptionUnknown, 'no argument "epoch". Did you mean "epochs"'),
        (dict(validation_slit=0.1), OptionUnknown, 'Did you mean "validation_split"'),
        (dict(max_queue_sise=1), OptionUnknown, 'Did you mean "max_queue_size"'),
        (dict(reset_metrics=False), RunInvalid, "the metrics of each batch begin anew"),
    ],
)
def test_what_would_mean_something_else_is_refused(given, error, says):
    with pytest.raises(error, match=says):
        keras2.fit_arguments(given)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X, Y


@keras2.accepting
def fit_like(model, x=None, y=None, epochs=1, validation_data=None, *, stage=None):
    """A method as they are called."""
    return x, epochs, stage


def test_a_method_takes_old_names_and_sets_how_a_pydataset_loads():
    data, held_out = Batches(), Batches()
    assert fit_like("model", data, nb_epoch=4, workers=3, max_q_size=7, validation_data=held_out, stage="one") == (
        data,
        4,
        "one",
    )
    for one in (data, held_out):
        assert (one.workers, one.max_queue_size, one.use_multiprocessing) == (3, 7, False)
    rows = iter([1])
    assert fit_like("model", generator=rows, workers=3) == (rows, 1, None)
    assert fit_like.__doc__ == "A method as they are called."
    with pytest.raises(OptionUnknown, match='no argument "epoch"'):
        fit_like("model", X, epoch=1)


def test_generator_methods_have_keras_2_s_order():
    assert keras2.by_position("fit_generator", ("g", 10, 3), {"workers": 2}) == {
        "generator": "g",
        "steps_per_epoch": 10,
        "epochs": 3,
        "workers": 2,
    }
    assert list(keras2.by_position("predict_generator", ("g", 10), {})) == ["generator", "steps"]
    with pytest.raises(RunInvalid, match="got steps twice"):
        keras2.by_position("evaluate_generator", ("g", 10), {"steps": 3})
    with pytest.raises(RunInvalid, match="got 9 arguments by position: expected at most 7"):
        keras2.by_position("evaluate_generator", tuple(range(9)), {})


# monitor


@pytest.mark.parametrize(
    ("asked", "logs", "found"),
    [
        ("val_acc", ["loss", "accuracy", "val_accuracy"], "val_accuracy"),
        ("val_accuracy", ["acc", "val_acc"], "val_acc"),
        ("acc", ["acc", "accuracy"], "acc"),
        ("val_label_acc", ["val_label_accuracy", "val_valid_accuracy"], "val_label_accuracy"),
        ("val_mean_absolute_error", ["val_mae"], "val_mae"),
        ("lr", ["learning_rate"], "learning_rate"),
        ("val_acc", ["loss"], "val_acc"),
        ("val_loss", ["loss"], "val_loss"),
        ("binary_acc", ["binary_accuracy"], "binary_accuracy"),
    ],
)
def test_a_monitor_of_keras_2_finds_the_number_there_is(asked, logs, found):
    assert keras2.monitor(asked, logs) == found
