"""Both ways to write the autoencoder's loss are one loss, and it is learned."""

import keras
import numpy as np
import pytest

from jobs.digits_vae import PIXELS, Options, build, digits, evidence_loss, negative_evidence


@pytest.fixture(scope="module")
def trained() -> dict[str, tuple[keras.Model, dict[str, list[float]]]]:
    """The model and the history of either loss, after 2 epochs of stock Keras."""
    x = digits()
    both = {}
    for loss in ("layer", "function"):
        options = Options(epochs=2, loss=loss)
        keras.utils.set_random_seed(1)  # stock Keras shuffles by the global seed
        model = build(options, 7)
        y = None if loss == "layer" else x
        history = model.fit(x, y, batch_size=options.batch_size, epochs=options.epochs, validation_split=0.1, verbose=0)
        both[loss] = model, history.history
    return both


def test_the_digits_are_all_there_from_0_to_1():
    x = digits()
    assert (x.shape, x.dtype) == ((1797, 64), np.float32)
    assert (x.min(), x.max()) == (0, 1)


def test_the_layer_and_the_function_train_to_the_same_numbers(trained):
    (layer, layer_history), (function, function_history) = trained["layer"], trained["function"]
    assert [w.path for w in layer.weights] == [w.path for w in function.weights]
    for one, other in zip(layer.get_weights(), function.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1, np.abs(one).max()))
    assert layer_history.keys() == function_history.keys() == {"loss", "val_loss"}
    for name in layer_history:
        np.testing.assert_allclose(layer_history[name], function_history[name], rtol=1e-6)


def test_training_lowers_the_loss_on_digits_never_seen(trained):
    _, history = trained["layer"]
    # 64 pixels told by a fair coin cost 64 * ln 2 = 44.4 nats, which is where an untrained decoder stands.
    assert 44.4 > history["val_loss"][0] > history["val_loss"][1] + 3


def test_the_loss_is_the_cross_entropy_of_the_pixels_and_the_divergence_of_the_latent():
    x = np.full((3, PIXELS), 0.25)
    half = np.full((3, PIXELS), 0.5)
    mean = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    log_variance = np.array([[0.0, 0.0], [0.0, 0.0], [np.log(4), 0.0]])
    # A pixel told by a fair coin costs ln 2. From N(m, v) to N(0, 1) it is (v + m^2 - 1 - ln v) / 2:
    # nothing at N(0, 1), 1/2 at N(1, 1), and (4 - 1 - ln 4) / 2 at N(0, 4).
    expected = PIXELS * np.log(2) + np.array([0, 0.5, (3 - np.log(4)) / 2])
    loss = keras.ops.convert_to_numpy(negative_evidence(*map(keras.ops.convert_to_tensor, (x, half, mean, log_variance))))
    assert loss.shape == (3,)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    output = keras.ops.concatenate([half, mean, log_variance], axis=-1)
    np.testing.assert_array_equal(evidence_loss(keras.ops.convert_to_tensor(x), output), loss)


def test_another_seed_gives_other_weights_and_the_same_seed_the_same():
    one, same, other = (build(Options(), seed).get_weights()[0] for seed in (7, 7, 2**32 - 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize(("loss", "width"), [("layer", 64), ("function", 64 + 2 * 8)])
def test_the_model_is_saved_and_loaded_again(trained, loss, width, tmp_path):
    model, _ = trained[loss]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    # A .keras file does not hold how far a random generator has come (keras 3.15.1).
    loaded.get_layer("sample").generator.state.assign(model.get_layer("sample").generator.state)
    x = digits()[:10]
    output = model(x)
    assert output.shape == (10, width)
    np.testing.assert_array_equal(output, loaded(x))
