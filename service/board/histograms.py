"""How weights, gradients and layers' outputs are distributed, and weights as images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram import metadata as plugin

from service.exact import keras_seams

BUCKETS = 30


def write_weights(model: Any, step: int, images: bool) -> None:
    """Writes every weight's histogram, and its image where `images` says so; tags as Keras gives them."""
    for layer in model.layers:
        for weight in layer.weights:
            value = keras.ops.convert_to_numpy(weight)
            tf.summary.histogram(f"{weight.path}/histogram", value, step=step)
            if images and (picture := image_of(value)) is not None:
                tf.summary.image(f"{weight.path}/image", picture, step=step)


def write_gradients(gradients: Mapping[str, np.ndarray], step: int) -> None:
    """Writes the histogram of each weight's gradient, by the weight's path."""
    for path, gradient in gradients.items():
        tf.summary.histogram(f"{path}/gradient", gradient, step=step)


def write_activations(model: Any, batches: Sequence[Any], step: int) -> None:
    """Writes the histogram of every layer's output over all batches of inputs."""
    for tag, table in activations(model, batches).items():
        metadata = plugin.create_summary_metadata(display_name=None, description=None)
        tf.summary.write(tag, tf.constant(table), step=step, metadata=metadata)


def activations(model: Any, batches: Sequence[Any]) -> dict[str, np.ndarray]:
    """Returns the histogram [BUCKETS, 3] (left, right, count) of each layer's output, by tag.

    The batches go through the model twice, first for the outputs' range, so that nothing but one
    batch's outputs is held.

    Args:
        model: one of the functional kind; of any other kind the layers' outputs cannot be reached.
        batches: inputs as the model takes them.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for tag, values in _outputs(model, batches):
        low, high = ranges.get(tag, (np.inf, -np.inf))
        ranges[tag] = (min(low, float(values.min())), max(high, float(values.max())))
    edges = {tag: np.linspace(low, high if high > low else low + 1e-9, BUCKETS + 1) for tag, (low, high) in ranges.items()}
    counts = {tag: np.zeros(BUCKETS) for tag in edges}
    for tag, values in _outputs(model, batches):
        counts[tag] += np.histogram(values, edges[tag])[0]
    return {tag: np.stack([edges[tag][:-1], edges[tag][1:], counts[tag]], 1) for tag in edges}


def image_of(weight: np.ndarray) -> np.ndarray | None:
    """Returns a weight as images [n, height, width, channels] as Keras draws it; None where it cannot be drawn.

    A vector is one column, a matrix lies, and of a kernel [height, width, filters] each filter is an image.
    """
    value = np.squeeze(weight)
    if value.ndim == 1:
        return value.reshape(1, -1, 1, 1)
    if value.ndim == 2:
        lying = value.T if value.shape[0] > value.shape[1] else value
        return lying[None, :, :, None]
    if value.ndim == 3:
        return np.moveaxis(value, -1, 0)[..., None]
    if value.ndim == 4 and value.shape[-1] in (1, 3, 4):
        return value
    return None


def _outputs(model: Any, batches: Sequence[Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (tag, finite values) of each layer's output for each batch."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    inside = inside_of(model, {str(i): layer.output for i, layer in enumerate(layers)})
    for batch in batches:
        with tf.summary.record_if(False):  # the layers' own
            outputs = inside(batch, training=False)
        for place, output in outputs.items():
            for i, tensor in enumerate(keras.tree.flatten(output)):
                values = np.asarray(keras.ops.convert_to_numpy(tensor), np.float64).reshape(-1)
                values = values[np.isfinite(values)]
                if values.size:
                    yield f"{layers[int(place)].name}/{'activation' if i == 0 else f'activation_{i}'}", values


def inside_of(model: Any, outputs: dict[str, Any]) -> Any:
    """Returns a model from the inputs of a functional one to tensors inside it; what Keras names next stays what it was."""
    with keras_seams.undisturbed():
        return keras.Model(model.inputs[0] if len(model.inputs) == 1 else model.inputs, outputs)
