"""Arrays as rows, and weights checked before a step is taken."""

import h5py
import numpy as np
import pandas
import pytest

from service.data import weights
from service.data.sources import Arrays
from service.errors import DataInvalid

X = np.arange(10.0).reshape(5, 2)


def test_nested_arrays_keep_their_structure_and_share_their_rows():
    source = Arrays({"a": X, "b": [1, 2, 3, 4, 5]}, [X[:, 0], X[:, 1]])
    assert source.size == 5
    a, b, left, right = source.rows(slice(1, 3))
    assert a.tolist() == [[2, 3], [4, 5]] and b.tolist() == [2, 3]
    assert left.tolist() == [2, 4] and right.tolist() == [3, 5]
    assert [name for name, _ in source.leaves()] == ["x['a']", "x['b']", "y[0]", "y[1]"]


def test_floats_become_floatx_and_integers_stay():
    source = Arrays(X, np.arange(5))
    assert [leaf.dtype.name for _, leaf in source.leaves()] == ["float32", "int64"]


def test_other_array_types_are_taken():
    class Frame:
        def to_numpy(self):
            return X

    assert Arrays(Frame()).rows(slice(0, 1))[0].tolist() == [[0, 1]]


def test_tables_and_files_are_taken_as_arrays(tmp_path):
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]})
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        stored = file.create_dataset("x", data=np.arange(6.0).reshape(3, 2))
        source = Arrays([frame, stored], frame["a"], pandas.Series([1.0, 0.0, 2.0]))
    first, second, target, weight = source.rows(slice(1, 3))
    assert first.tolist() == [[2.0, 5.0], [3.0, 6.0]] and second.tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert target.tolist() == [2.0, 3.0] and weight.tolist() == [0.0, 2.0]


def test_weights_are_summed_over_the_whole_batch():
    source = Arrays(X, X, np.array([1.0, 2.0, 4.0, 8.0, -3.0]))
    assert source.weight_sums(slice(1, 5)).tolist() == [2 + 4 + 8 - 3]


def test_the_last_rows_are_held_out():
    # floor(5 * (1 - 0.3)) = 3 rows train.
    kept, held_out = Arrays(X, X[:, 0]).split(0.3)
    assert (kept.size, held_out.size) == (3, 2)
    assert held_out.rows(slice(None))[1].tolist() == [6, 8]


@pytest.mark.parametrize("fraction", [0.999, 1.0, 1.5, -0.2])
def test_a_split_that_leaves_nothing_is_refused(fraction):
    with pytest.raises(DataInvalid, match=f"validation_split={fraction} leaves"):
        Arrays(X).split(fraction)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((X, X[:4]), "x has 5, y has 4 rows"),
        ((X, None, np.ones(3)), "x has 5, sample_weight has 3 rows"),
        ((X[:0],), "no rows"),
        ((None,), "x is None"),
        ((np.array(["a", None], dtype=object),), "dtype object"),
        ((3.0,), "single value"),
    ],
)
def test_arrays_that_cannot_be_rows_are_refused_by_name(arguments, says):
    with pytest.raises(DataInvalid, match=says):
        Arrays(*arguments)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_refused_with_its_row(bad):
    with pytest.raises(DataInvalid, match=r"sample_weight is .* at row 3"):
        weights.check(Arrays(X, X, np.array([1.0, 0.0, -2.0, bad, bad])))


def test_zero_and_negative_weights_are_legal():
    weights.check(Arrays(X, X, np.array([0.0, -1.0, 1e30, 0.0, 1.0])))


def test_class_weights_multiply_sample_weights():
    labels = np.array([0, 1, 2, 1, 0])
    source = weights.with_class_weight(Arrays(X, labels, np.array([1.0, 2.0, 3.0, 4.0, 5.0])), {1: 10.0, 2: 0.5})
    # A class that is not named weighs 1.
    assert source.like[2].tolist() == [1, 20, 1.5, 40, 5]


def test_class_weights_read_one_hot_labels():
    source = weights.with_class_weight(Arrays(X, np.eye(3)[[2, 0, 1, 1, 2]]), {2: 3.0})
    assert source.like[2].tolist() == [3, 1, 1, 1, 3]


@pytest.mark.parametrize("y", [None, [X[:, 0], X[:, 1]]])
def test_class_weights_without_one_label_a_row_are_refused(y):
    with pytest.raises(DataInvalid, match="class_weight"):
        weights.with_class_weight(Arrays(X, y), {0: 2.0})
