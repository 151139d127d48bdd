"""Of a pipeline that maps names or records to rows, a replica loads its own rows alone."""

import numpy as np
import pytest
import tensorflow as tf

from service.data.own_rows import own_reading

X = np.arange(22, dtype="float32").reshape(11, 2)


def loaded(name):
    return tf.reshape(tf.io.decode_raw(tf.io.read_file(name), tf.float32), [2])


def files(folder):
    """Writes a file for each row; returns their names."""
    names = [str(folder / f"{i:02d}") for i in range(len(X))]
    for name, row in zip(names, X, strict=True):
        (folder / name).write_bytes(row.tobytes())
    return names


def parts(made, replicas, first=0):
    """Returns each replica's rows of each batch, put together; every replica makes the pipeline anew."""
    found = [list(own_reading(made()).batches(replicas, replica, first)) for replica in range(replicas)]
    assert all([batch.told for batch in of_one] == [batch.told for batch in found[0]] for of_one in found)
    batches = []
    for several in zip(*found, strict=True):
        cuts = [(r * several[0].size // replicas, (r + 1) * several[0].size // replicas) for r in range(replicas)]
        own = [batch.rows(slice(*cut)) for batch, cut in zip(several, cuts, strict=True) if cut[0] < cut[1]]
        batches.append([np.concatenate(leaves) for leaves in zip(*own, strict=True)])
    return batches


@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "made",
    [
        lambda names: tf.data.Dataset.from_tensor_slices(names).map(loaded).batch(4),
        lambda names: tf.data.Dataset.from_tensor_slices((names, X)).map(lambda n, x: (loaded(n), x[0])).batch(4).prefetch(1),
        lambda names: tf.data.Dataset.from_tensor_slices({"n": names}).map(lambda row: {"x": loaded(row["n"])}).batch(4),
        lambda names: tf.data.Dataset.from_tensor_slices(names).shuffle(11, 3).map(loaded, 2).map(lambda x: x * 2).batch(4),
        lambda names: tf.data.Dataset.from_tensor_slices(names).map(loaded).batch(4, drop_remainder=True),
    ],
    ids=["names", "pairs", "dict", "shuffled, two maps", "no remainder"],
)
def test_the_replicas_rows_together_are_the_batches_that_tf_data_gives(tmp_path, made, replicas):
    expected = [tf.nest.flatten(batch) for batch in made(files(tmp_path)).as_numpy_iterator()]
    found = parts(lambda: made(files(tmp_path)), replicas)
    assert len(found) == len(expected)
    for mine, whole in zip(found, expected, strict=True):
        for one, another in zip(mine, whole, strict=True):
            np.testing.assert_array_equal(one, another)


def test_a_replica_reads_no_file_of_another_one_s(tmp_path):
    names = files(tmp_path)
    dataset = tf.data.Dataset.from_tensor_slices(names).map(loaded).batch(4)
    for i in (0, 1, 4, 5, 8):  # replica 0's: the first half of 4, 4 and 3 rows
        (tmp_path / names[i]).unlink()
    rows = [batch.rows(slice(batch.size // 2, batch.size))[0] for batch in own_reading(dataset).batches(2, 1)]
    np.testing.assert_array_equal(np.concatenate(rows), X[[2, 3, 6, 7, 9, 10]])
    with pytest.raises(tf.errors.NotFoundError):
        next(own_reading(dataset).batches(2, 0))


def test_all_rows_are_found_where_they_are_asked_for(tmp_path):
    dataset = tf.data.Dataset.from_tensor_slices(files(tmp_path)).map(loaded).batch(4)
    batch = next(own_reading(dataset).batches(2, 1))
    np.testing.assert_array_equal(batch.rows(slice(0, 4))[0], X[:4])


def test_reading_from_a_later_batch_loads_nothing_before_it(tmp_path):
    names = files(tmp_path)
    dataset = tf.data.Dataset.from_tensor_slices(names).map(loaded).batch(4)
    for name in names[:8]:
        (tmp_path / name).unlink()
    np.testing.assert_array_equal(parts(lambda: dataset, 2, first=2)[0][0], X[8:])


@pytest.mark.parametrize(
    "dataset",
    [
        tf.data.Dataset.from_tensor_slices(X).batch(4),  # nothing is mapped
        tf.data.Dataset.from_tensor_slices(X).batch(4).map(lambda x: x * 2),  # whole batches are
        tf.data.Dataset.from_tensor_slices(X).map(lambda x: x + tf.random.uniform([], seed=1)).batch(4),  # each call draws
        tf.data.Dataset.from_tensor_slices(X).map(lambda x: x).filter(lambda x: x[0] > 2).batch(4),  # who knows which rows stay
        tf.data.Dataset.range(3).map(lambda n: tf.range(n)).padded_batch(2),
    ],
)
def test_other_pipelines_are_run_whole(dataset):
    assert own_reading(dataset) is None


def test_the_inputs_alone_are_still_the_replica_s_rows(tmp_path):
    dataset = tf.data.Dataset.from_tensor_slices((files(tmp_path), X)).map(lambda n, x: (loaded(n), x)).batch(4)
    batch = next(own_reading(dataset).batches(2, 1)).inputs()
    assert batch.size == 4 and batch.like[1] is None
    np.testing.assert_array_equal(batch.rows(slice(2, 4)), [X[2:4]])
    np.testing.assert_array_equal(batch.rows(slice(0, 4)), [X[:4]])
