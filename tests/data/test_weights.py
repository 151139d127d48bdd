"""Weights of samples, outputs and classes become what Keras's loss reads, or are refused with what to write."""

import keras
import numpy as np
import pytest

import service
from service.data import weights
from service.data.sources import Arrays
from service.errors import DataInvalid, ModelInvalid

CLASSES = np.array([0, 1, 1, 2])
ONE_HOT = np.eye(3)[CLASSES]
BY_CLASS = {1: 5.0, 2: 0.5}  # class 0 is not named: 1
EXPECTED = [1.0, 5.0, 5.0, 0.5]
X = np.ones((4, 3))


def two_outputs(as_dict=False, losses=("binary_crossentropy", "sparse_categorical_crossentropy"), **options):
    """Returns the discriminator of a semi-supervised GAN: one output for valid or fake, one for the class."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    valid = keras.layers.Dense(1, "sigmoid", name="valid")(inputs)
    label = keras.layers.Dense(3, "softmax", name="label")(inputs)
    model = keras.Model(inputs, {"v": valid, "l": label} if as_dict else [valid, label])
    if isinstance(losses, tuple):
        losses = dict(zip("vl", losses, strict=True)) if as_dict else list(losses)
    model.compile(keras.optimizers.SGD(0.1), losses, **options)
    return model


def one_output(loss="mse", **options):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="out")])
    model.compile(keras.optimizers.SGD(0.1), loss, **options)
    return model


VALID = np.array([1.0, 0.0, 1.0, 0.0])
Y = [VALID, CLASSES]


@pytest.mark.parametrize("y", [CLASSES, CLASSES[:, None], ONE_HOT, CLASSES + 0.2], ids=["ids", "column", "one-hot", "floats"])
def test_a_class_s_weight_is_that_of_its_samples(y):
    np.testing.assert_array_equal(weights.weighed(one_output(), X, y, None, BY_CLASS), EXPECTED)


def test_class_and_sample_weights_multiply():
    given = np.array([2.0, 0.0, -1.0, 4.0])
    # 1 * 2, 5 * 0, 5 * -1, 0.5 * 4
    np.testing.assert_array_equal(weights.weighed(one_output(), X, CLASSES, given, BY_CLASS), [2.0, 0.0, -5.0, 2.0])


def test_a_sample_s_class_weighs_all_its_steps():
    steps = np.arange(8.0).reshape(4, 2)
    # 1 * (0, 1), 5 * (2, 3), 5 * (4, 5), 0.5 * (6, 7)
    expected = [[0.0, 1.0], [10.0, 15.0], [20.0, 25.0], [3.0, 3.5]]
    np.testing.assert_array_equal(weights.weighed(one_output(), X, CLASSES, steps, BY_CLASS), expected)


@pytest.mark.parametrize("shaped", [lambda ids: ids[..., None], lambda ids: np.eye(3)[ids]], ids=["ids", "one-hot"])
def test_each_step_has_its_own_class(shaped):
    ids = np.array([[0, 1], [2, 1]])
    expected = [[1.0, 5.0], [0.5, 5.0]]
    np.testing.assert_array_equal(weights.weighed(one_output(), X[:2], shaped(ids), None, BY_CLASS), expected)
    halved = weights.weighed(one_output(), X[:2], shaped(ids), np.array([0.5, 2.0]), BY_CLASS)
    np.testing.assert_array_equal(halved, [[0.5, 2.5], [1.0, 10.0]])


def test_steps_of_class_numbers_are_known_by_the_loss():
    ids = np.array([[0, 1], [2, 1]])
    model = one_output("sparse_categorical_crossentropy")
    np.testing.assert_array_equal(weights.weighed(model, X[:2], ids, None, BY_CLASS), [[1.0, 5.0], [0.5, 5.0]])


@pytest.mark.parametrize("class_weight", [[None, BY_CLASS], {"label": BY_CLASS}, {"valid": None, "label": BY_CLASS}])
@pytest.mark.parametrize("y", [Y, {"valid": VALID, "label": CLASSES}, tuple(Y)], ids=["list", "dict", "tuple"])
def test_outputs_in_a_list_have_their_own_class_weights(class_weight, y):
    valid, label = weights.weighed(two_outputs(), X, y, None, class_weight)
    assert valid is None
    np.testing.assert_array_equal(label, EXPECTED)


@pytest.mark.parametrize("class_weight", [[BY_CLASS, None], {"l": BY_CLASS}, {"label": BY_CLASS}])
@pytest.mark.parametrize("y", [{"v": VALID, "l": CLASSES}, [CLASSES, VALID]], ids=["dict", "list"])
def test_outputs_in_a_dict_have_their_own_class_weights(class_weight, y):
    """A list's entries belong to the dict's keys in sorted order, as Keras has it for y: l before v."""
    weighed = weights.weighed(two_outputs(as_dict=True), X, y, None, class_weight)
    assert weighed["v"] is None
    np.testing.assert_array_equal(weighed["l"], EXPECTED)


def test_sample_weights_by_name_reach_the_outputs_of_a_list():
    given = {"label": np.arange(4.0)}
    assert weights.weighed(two_outputs(), X, Y, given, None)[0] is None
    np.testing.assert_array_equal(weights.weighed(two_outputs(), X, Y, given, None)[1], np.arange(4.0))
    both = weights.weighed(two_outputs(), X, Y, given, [{0: 3.0}, BY_CLASS])
    np.testing.assert_array_equal(both[0], [1.0, 3.0, 1.0, 3.0])
    np.testing.assert_array_equal(both[1], [0.0, 5.0, 10.0, 1.5])


def test_one_array_is_for_all_outputs():
    ones = np.arange(4.0)
    assert weights.weighed(two_outputs(), X, Y, ones, None) is ones
    both = weights.weighed(two_outputs(), X, Y, ones, [None, BY_CLASS])
    np.testing.assert_array_equal(both[0], ones)
    np.testing.assert_array_equal(both[1], ones * EXPECTED)


def test_a_list_may_leave_out_the_outputs_that_have_no_loss():
    model = two_outputs(losses=(None, "sparse_categorical_crossentropy"))
    none, label = weights.weighed(model, X, [CLASSES], [np.arange(4.0)], [BY_CLASS])
    assert none is None
    np.testing.assert_array_equal(label, np.arange(4.0) * EXPECTED)


def test_a_model_that_only_its_call_describes_has_the_outputs_of_y():
    class Called(keras.Model):
        def call(self, inputs):
            return {"a": inputs, "b": inputs}

    model = Called()
    model.compile("sgd", "mse")
    weighed = weights.weighed(model, X, {"a": VALID, "b": CLASSES}, None, {"b": BY_CLASS})
    assert weighed["a"] is None
    np.testing.assert_array_equal(weighed["b"], EXPECTED)


def test_outputs_nested_in_a_dict_have_their_weights_where_keras_looks():
    inputs = keras.Input((3,))
    made = [keras.layers.Dense(1, name=name)(inputs) for name in ("one", "two")]
    model = keras.Model(inputs, {"pair": made})
    model.compile("sgd", {"pair": ["mse", "mse"]})
    targets = {"pair": [VALID, CLASSES]}
    weighed = weights.weighed(model, X, targets, {"pair": [VALID, np.ones(4)]}, {"two": BY_CLASS})
    np.testing.assert_array_equal(weighed["pair"][0], VALID)
    np.testing.assert_array_equal(weighed["pair"][1], EXPECTED)
    assert np.isfinite(service.train_on_batch(model, X, targets, class_weight={"two": BY_CLASS})).all()


def test_lists_of_numbers_are_arrays_as_in_keras():
    np.testing.assert_array_equal(weights.weighed(one_output(), X, [0, 1, 1, 2], [2.0, 1.0, 0.0, 2.0], BY_CLASS), [2, 5, 0, 1])
    both = weights.weighed(two_outputs(), X, [VALID, [0, 1, 1, 2]], None, [None, BY_CLASS])
    np.testing.assert_array_equal(both[1], EXPECTED)


def test_without_weights_nothing_is_made():
    assert weights.weighed(one_output(), X, CLASSES, None, None) is None
    assert weights.with_class_weight(source := Arrays(X, CLASSES), None) is source
    np.testing.assert_array_equal(weights.with_class_weight(Arrays(X, CLASSES), BY_CLASS).like[2], EXPECTED)


REFUSED = {
    "one dict for two": (
        dict(class_weight=BY_CLASS),
        r'one dict, but the model has 2 outputs: valid, label.*\{"valid": \{1: 5',
    ),
    "an unknown output": (dict(class_weight={"labels": BY_CLASS}), 'class_weight names "labels".*Did you mean "label"'),
    "weights of an unknown output": (dict(sample_weight={"vlid": VALID}), 'sample_weight names "vlid".*Did you mean "valid"'),
    "too many dicts": (dict(class_weight=[BY_CLASS] * 3), "class_weight is a list of 3, but the model has 2 outputs"),
    "too many arrays": (dict(sample_weight=[VALID] * 3), "sample_weight is a list of 3, .*valid, label"),
    "numbers": (dict(class_weight=[1.0, 2.0]), r"class_weight=\[1.0, 2.0\]: expected a dict.*dict\(enumerate"),
    "an array": (dict(class_weight=np.ones(2)), "class_weight=.*expected a dict"),
    "keys that are text": (dict(class_weight=[{"0": 1.0}, None]), "class_weight has the key '0': expected the numbers"),
    "an infinite weight": (dict(class_weight=[{0: np.inf}, None]), "class_weight={0: inf}: expected finite"),
    "text": (dict(class_weight="balanced"), "class_weight='balanced': expected a dict"),
    "too few rows": (dict(sample_weight=VALID[:3]), r"sample_weight has shape \(3,\) beside 4 rows"),
    "a number": (dict(sample_weight=[np.array(2.0), None]), r"sample_weight has shape \(\)"),
    "a number of Python": (dict(sample_weight=[2.0, None]), "A single value"),
    "a product too large": (
        dict(sample_weight=np.full(4, 1e30, "float32"), class_weight=[{1: 1e30}, None]),
        "sample_weight times class_weight is inf at row 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_fits_no_output_is_refused_saying_what_to_write(case):
    given, words = REFUSED[case]
    with pytest.raises(DataInvalid, match=words):
        weights.weighed(two_outputs(), X, Y, **({"sample_weight": None, "class_weight": None} | given))


def test_class_weights_of_targets_that_are_no_classes_are_refused():
    with pytest.raises(DataInvalid, match=r"one-hot rows .* values from -1 to 2"):
        weights.weighed(one_output(), X, np.array([[-1.0, 2.0]] * 4), None, BY_CLASS)
    with pytest.raises(DataInvalid, match="needs a y of class numbers"):
        weights.weighed(one_output(), X, None, None, BY_CLASS)


def test_weights_that_cannot_be_multiplied_are_refused():
    with pytest.raises(DataInvalid, match=r"sample_weight has shape \(4, 3\) and the classes of y have shape \(4, 2\)"):
        weights.weighed(one_output(), X, np.zeros((4, 2, 1)), np.ones((4, 3)), BY_CLASS)


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(y_pred)


def adds_its_loss(kind=keras.Model, **options):
    inputs = keras.Input((3,))
    model = kind(inputs, keras.layers.Dense(1, activity_regularizer="l2")(inputs))
    model.compile("sgd", loss=None, **options)
    return model


@pytest.mark.parametrize(("name", "given"), [("sample_weight", (VALID, None)), ("class_weight", (None, BY_CLASS))])
def test_weights_that_keras_would_ignore_are_refused(name, given):
    with pytest.raises(ModelInvalid, match=f"{name} is given, .* compiled with loss=None"):
        weights.weighed(adds_its_loss(), X, CLASSES, *given)
    for model in (adds_its_loss(OwnLoss), adds_its_loss(weighted_metrics=["mse"])):
        assert weights.weighed(model, X, CLASSES, *given) is not None


# What the step makes of them, alone, where Keras is the oracle unless it is wrong.


def first_loss(model, *data):
    return float(service.test_on_batch(model, *data, return_dict=True)["loss"])


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
@pytest.mark.parametrize("given", [np.zeros(4), np.array([1.0, -1.0, 2.0, -2.0])], ids=["all zero", "sum zero"])
def test_weights_that_sum_to_zero_give_numbers(reduction, given):
    model = one_output(keras.losses.MeanSquaredError(reduction=reduction), weighted_metrics=["mae"])
    logs = service.train_on_batch(model, X, VALID, sample_weight=given, return_dict=True)
    assert all(np.isfinite(list(logs.values())))
    assert all(np.isfinite(w).all() for w in model.get_weights())
    if reduction == "mean_with_sample_weight" or not given.any():
        assert logs["loss"] == 0.0


def test_huge_weights_are_weights():
    model = one_output()
    model.set_weights([np.zeros((3, 1)), np.zeros(1)])
    # Every row's loss is (1 - 0)^2; 1e30 times the mean of 1, 0, 0, 0.
    assert first_loss(model, X, np.ones(4), np.array([1e30, 0.0, 0.0, 0.0])) == pytest.approx(0.25e30, rel=1e-6)
    with pytest.raises(DataInvalid, match="inf"):
        service.test_on_batch(model, X, np.ones(4), np.array([1e300, 0.0, 0.0, 0.0]))


def steps(loss, size):
    """Returns a model that gives back its input [rows, size], with a loss a step."""
    inputs = keras.Input((size, 1))
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    model.compile("sgd", loss, weighted_metrics=["mse"])
    return model


@pytest.mark.parametrize("size", [3, 4], ids=["3 steps", "as many steps as rows"])
@pytest.mark.parametrize(("reduction", "divisor"), [("sum_over_batch_size", 4.0), ("mean_with_sample_weight", 7.0)])
def test_one_weight_a_sample_weighs_all_its_steps(size, reduction, divisor):
    """Stock Keras lines the four weights up with the steps, where there are four of those."""
    x = np.arange(4.0)[:, None, None] * np.ones((4, size, 1))
    model = steps(keras.losses.MeanSquaredError(reduction=reduction), size)
    # Each step of row i is i away from 0, so a row's mean is i^2: (1*0 + 0*1 + 2*4 + 4*9) = 44 over 4 rows, or over 1+0+2+4.
    logs = service.test_on_batch(model, x, np.zeros_like(x), np.array([1.0, 0.0, 2.0, 4.0]), return_dict=True)
    assert logs["loss"] == pytest.approx(44.0 / divisor, rel=1e-6)
    assert logs["mse"] == pytest.approx(44.0 / 7.0, rel=1e-6)


def test_weights_of_more_steps_than_the_loss_has_are_refused():
    with pytest.raises(DataInvalid, match=r"shape \[rows, 2\], but the loss has values of shape \[rows\]"):
        service.test_on_batch(one_output(), X, VALID, np.ones((4, 2)))
