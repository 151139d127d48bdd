"""What TensorBoard is given: distributions, images, projected vectors, event files that follow the checkpoints."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from service.board import histograms, projector
from service.board.events import Events
from service.storage.store import Store
from service.storage.views import Views
from tests.buckets import gs_options

X = np.random.RandomState(0).randn(50, 3).astype("float32")


def small():
    inputs = keras.Input((3,))
    return keras.Model(inputs, layers.Dense(2, name="out")(layers.Dense(4, "relu", name="hidden")(inputs)))


def test_a_layer_s_histogram_counts_its_outputs_over_all_batches():
    model = small()
    found = histograms.activations(model, [X[:20], X[20:40], X[40:]])
    outputs = model.get_layer("hidden")(X).numpy()
    assert found.keys() == {"hidden/activation", "out/activation"}
    left, right, counts = found["hidden/activation"].T
    assert (left[0], right[-1]) == pytest.approx((outputs.min(), outputs.max()))
    assert counts.sum() == outputs.size == 50 * 4
    np.testing.assert_array_equal(counts, np.histogram(outputs.astype("float64"), histograms.BUCKETS)[0])


def test_a_layer_whose_output_is_one_number_has_one_bucket_filled():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Rescaling(0.0, 7.0, name="seven")(inputs))
    (table,) = histograms.activations(model, [X]).values()
    assert table[0, 0] == 7 and table[:, 2].sum() == table[0, 2] == X.size


def test_looking_into_a_model_changes_no_name_that_keras_gives_next():
    keras.utils.clear_session()
    first = small()
    histograms.activations(first, [X])
    assert (first.name, small().name) == ("functional", "functional_1")


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        ((5,), (1, 5, 1, 1)),
        ((3, 7), (1, 3, 7, 1)),
        ((7, 3), (1, 3, 7, 1)),  # a matrix lies
        ((3, 3, 8), (8, 3, 3, 1)),  # a filter an image
        ((3, 3, 1, 8), (8, 3, 3, 1)),
        ((2, 3, 3, 4), (2, 3, 3, 4)),
    ],
)
def test_weights_are_drawn_as_keras_draws_them(shape, drawn):
    assert histograms.image_of(np.zeros(shape)).shape == drawn


@pytest.mark.parametrize("shape", [(3, 3, 5, 8), (2, 2, 2, 2, 2), ()])
def test_what_is_no_image_is_not_drawn(shape):
    assert histograms.image_of(np.zeros(shape)) is None


def test_vectors_are_a_table_s_rows_or_a_layer_s_outputs_for_data():
    inputs = keras.Input((), dtype="int32")
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Embedding(6, 4, name="words")(inputs)))
    table = model.get_layer("words").embeddings.numpy()
    np.testing.assert_array_equal(projector.vectors(model, None, None)["words"], table)
    chosen = projector.vectors(model, ["words", "out"], np.array([5, 0]))
    np.testing.assert_array_equal(chosen["words"], table[[5, 0]])
    assert chosen["out"].shape == (2, 2)


def test_the_projector_s_files_name_each_other():
    files = projector.files({"words": np.array([[1.5, 2.0], [0.25, -1.0]])}, {"words": b"a\nb\n"})
    assert list(files) == ["embedding-words.tsv", "metadata-words.tsv", "projector_config.pbtxt"]
    assert files["embedding-words.tsv"] == b"1.5\t2\n0.25\t-1\n"
    config = files["projector_config.pbtxt"].decode()
    assert 'tensor_path: "embedding-words.tsv"' in config and 'metadata_path: "metadata-words.tsv"' in config


@pytest.fixture(params=["folder", "gs"])
def store(request, tmp_path):
    if request.param == "folder":
        return Store(str(tmp_path))
    address = request.getfixturevalue("gcs_address")
    return Store(f"gs://bucket/{tmp_path.name}", **gs_options(address))


def steps_in(store, tmp_path):
    """Returns the steps of all numbers under logs/train, file by file."""
    found = []
    for path in store.list("logs/train"):
        local = tmp_path / path.replace("/", "-")
        local.write_bytes(store.read(path))
        found += [event.step for event in EventFileLoader(str(local)).Load() if event.summary.value]
    return found


def attempt(store, steps, sizes=None):
    """Writes numbers at steps as one attempt does, going on from `sizes`; returns the sizes after each."""
    views = Views(store, every_seconds=30)
    events = Events(store, "logs", views)
    if sizes is not None:
        events.cut(sizes)
    found = []
    for step in steps:
        events.scalars("train", {"loss": 1.0 / step}, step)
        found.append(events.sizes())
    events.publish()
    views.close()
    return found


def test_what_comes_after_a_checkpoint_is_cut_off_before_it_is_written_again(store, tmp_path):
    first = attempt(store, [1, 2, 3, 4])
    second = attempt(store, [3, 4, 5], first[1])  # the checkpoint was after step 2
    third = attempt(store, [5, 6], second[1])  # and now after step 4
    assert sorted(steps_in(store, tmp_path)) == [1, 2, 3, 4, 5, 6]
    attempt(store, [1], {})  # no checkpoint at all: what there was is removed
    assert steps_in(store, tmp_path) == [1]
    assert len(third[-1]) == 3


def test_what_an_author_puts_beside_the_event_files_is_not_touched(store):
    store.write("logs/train/notes.txt", b"mine")
    store.write("logs/elsewhere/events.out.tfevents.1", b"another program's")
    attempt(store, [1], {})
    assert store.read("logs/train/notes.txt") == b"mine"
    assert store.exists("logs/elsewhere/events.out.tfevents.1")


def test_events_reach_a_bucket_while_training_goes_on(gcs_address, tmp_path):
    store = Store(f"gs://bucket/{tmp_path.name}", **gs_options(gcs_address))
    views = Views(store, every_seconds=0.05)
    events = Events(store, "logs", views)
    events.write("train", lambda: tf.summary.scalar("loss", 0.5, step=1))
    events.mirror()
    while not store.list("logs/train"):
        tf.timestamp()
    assert views.flush() and steps_in(store, tmp_path) == [1]
    views.close()
