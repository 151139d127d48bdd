"""What each kind of stream gives, in one process."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from service.cluster.consensus import Council
from service.data.datasets import Dataset
from service.data.generators import Generated
from service.data.opening import opened
from service.data.pydatasets import Indexed
from service.data.sources import Arrays
from service.data.streams import Leaf, checksum
from service.errors import DataInvalid
from service.exact.group import Group
from service.training.stream_plan import StreamPlan

ALONE = Council()
X = np.arange(20, dtype="float32").reshape(10, 2)


def rows_of(batches):
    return [batch.rows(slice(None))[0][:, 0].tolist() for batch in batches]


def pipeline(**shuffle):
    found = tf.data.Dataset.from_tensor_slices((X, X[:, 0]))
    return (found.shuffle(10, **shuffle) if shuffle else found).batch(4)


def test_a_pipeline_s_passes_are_those_that_tf_data_gives():
    expected = pipeline(seed=3)
    passes = [[x[:, 0].tolist() for x, _ in expected.as_numpy_iterator()] for _ in range(3)]
    stream = Dataset(pipeline(seed=3), ALONE)
    assert [rows_of(stream.batches(number)) for number in range(3)] == passes
    assert passes[0] != passes[1]


def test_a_pipeline_tells_what_is_known_of_its_batches():
    stream = Dataset(pipeline(), ALONE)
    assert stream.like == (Leaf((None, 2), "float32"), Leaf((None,), "float32"), None)
    assert (stream.steps, stream.is_endless, stream.replays) == (3, False, False)
    assert Dataset(pipeline().repeat(), ALONE).is_endless
    assert Dataset(pipeline().filter(lambda x, y: True), ALONE).steps is None
    assert Dataset(pipeline(seed=3), ALONE).replays


def test_a_pipeline_without_chance_is_read_from_any_batch_on():
    assert rows_of(Dataset(pipeline(), ALONE).batches(5, first=1)) == [[8, 10, 12, 14], [16, 18]]


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (lambda: pipeline(seed=None), "shuffle\\(\\) and no seed.*shuffle\\(n, seed=7\\)"),
        (lambda: tf.data.Dataset.from_tensor_slices(X[:, 0]), "single values.*dataset.batch"),
        (lambda: tf.data.Dataset.from_tensor_slices(["a", "b"]).batch(2), "numbers"),
        (lambda: pipeline().with_options(unordered()), "deterministic = False"),
    ],
)
def test_a_pipeline_that_workers_could_not_share_is_refused_with_the_fix(dataset, words):
    tf.random.set_seed(None)
    with pytest.raises(DataInvalid, match=words):
        Dataset(dataset(), ALONE)


def unordered():
    options = tf.data.Options()
    options.deterministic = False
    return options


class Items(keras.utils.PyDataset):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.begun = self.ended = 0

    def __len__(self):
        return 5

    def __getitem__(self, place):
        return X[2 * place : 2 * place + 2], X[2 * place : 2 * place + 2, 0]

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.ended += 1


def test_a_pydataset_s_batches_come_in_an_order_of_seed_and_pass():
    stream = Indexed(Items(), ALONE, shuffle=True, seed=3)
    first, second = (rows_of(stream.batches(number)) for number in range(2))
    assert first != second and sorted(first) == sorted(second) == [[4.0 * i, 4.0 * i + 2] for i in range(5)]
    assert rows_of(Indexed(Items(), ALONE, shuffle=True, seed=3).batches(1)) == second


@pytest.mark.parametrize("loading", [{}, {"workers": 3}, {"workers": 2, "use_multiprocessing": True}], ids=str)
def test_a_pydataset_s_threads_and_processes_keep_the_order(loading):
    items = Items(**loading, max_queue_size=2)
    assert rows_of(Indexed(items, ALONE).batches(0)) == [[4.0 * i, 4.0 * i + 2] for i in range(5)]


def test_a_pydataset_hears_of_every_pass_also_of_those_that_an_earlier_attempt_made():
    items = Items()
    list(Indexed(items, ALONE).batches(2))
    assert (items.begun, items.ended) == (3, 3)


def test_what_two_batches_of_a_generator_differ_in_is_unknown():
    stream = Generated(iter([(np.ones((3, 4, 2)), np.ones(3)), (np.ones((2, 5, 2)), np.ones(2))]), ALONE)
    assert stream.like[0].shape == (None, None, 2)
    assert [batch.size for batch in stream.batches(0)] == [3, 2]


def test_a_batch_of_another_kind_is_refused_by_its_number():
    items = [(np.ones((2, 1)), np.ones(2))] * 3 + [(np.ones((2, 1)),)]
    with pytest.raises(DataInvalid, match=r"Batch 3 of the training data holds float32.*the batches before it hold"):
        list(Generated(iter(items), ALONE).batches(0))


def test_an_empty_generator_is_refused():
    with pytest.raises(DataInvalid, match="gave no batch"):
        Generated(iter([]), ALONE)


@pytest.mark.parametrize(
    "x", [lambda: pipeline(), lambda: Items(), lambda: iter([(X, X)])], ids=["tf.data", "PyDataset", "generator"]
)
def test_targets_beside_a_stream_are_refused(x):
    with pytest.raises(DataInvalid, match=r"y is given beside a .*: have that yield \(x, y\)"):
        opened(x(), X, None, ALONE)


def test_a_checksum_tells_values_shapes_and_names():
    same = Arrays({"a": X}, X)
    assert checksum(same) == checksum(Arrays({"a": X.copy()}, X))
    others = [
        Arrays({"b": X}, X),
        Arrays({"a": X}, X + 1),
        Arrays({"a": X.reshape(10, 1, 2)}, X),
        Arrays({"a": X.astype("int32")}, X),
    ]
    assert len({checksum(same), *map(checksum, others)}) == 5


def counted(plan, epochs):
    return [len(list(plan.batches(Group(), epoch))) for epoch in range(epochs)]


def test_epochs_inside_a_pass_go_on_where_the_last_one_ended():
    # Five batches in epochs of two: 2, 2 and the one that is left, then anew; a checkpoint's place is found again.
    def plan():
        return StreamPlan(Indexed(Items(), ALONE), steps_per_epoch=2)

    with pytest.warns(UserWarning, match="ended after 1 of 2 batches"):
        assert counted(plan(), 4) == [2, 2, 1, 2]
        again = plan()
        whole = [[batch.rows[0][0, 0] for batch in again.batches(Group(), epoch)] for epoch in range(4)]
    said = []
    late = StreamPlan(Indexed(Items(), ALONE), steps_per_epoch=2, say=said.append)
    with pytest.warns(UserWarning, match="ended after"):
        assert [b.rows[0][0, 0] for b in late.batches(Group(), 3, 1)] == whole[3][1:]
    assert said == ["Reading the data again up to epoch 4, batch 1, where the checkpoint left off."]


def test_a_generator_that_has_ended_is_over():
    plan = StreamPlan(Generated(((X, X[:, 0]) for _ in range(3)), ALONE), steps_per_epoch=2)
    with pytest.warns(UserWarning, match="ended after 1 of 2"):
        assert [plan.is_over(0), *counted(plan, 2), plan.is_over(2)] == [False, 2, 1, True]


def test_an_endless_generator_is_read_no_further_than_asked():
    numbers = iter(range(100))
    stream = Generated(((X, X[:, 0] + n) for n in numbers), ALONE)
    list(StreamPlan(stream, steps_per_epoch=4).batches(Group(), 0))
    assert next(numbers) == 4
