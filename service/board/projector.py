"""Embeddings as the files that TensorBoard's projector reads."""

import io
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector import projector_config_pb2

from service.board.histograms import inside_of

CONFIG = "projector_config.pbtxt"


def vectors(model: Any, layer_names: Iterable[str] | None, data: Any) -> dict[str, np.ndarray]:
    """Returns [n, width] vectors by layer name.

    Args:
        model: the model.
        layer_names: which layers; None takes the Embedding layers.
        data: inputs of the model, whose outputs of those layers are the vectors, one a row; None takes
            the layers' tables.
    """
    names = list(layer_names or [layer.name for layer in model.layers if isinstance(layer, keras.layers.Embedding)])
    if data is None:
        return {name: _flat(model.get_layer(name).embeddings) for name in names}
    inside = inside_of(model, {name: model.get_layer(name).output for name in names})
    return {name: _flat(output) for name, output in inside.predict(data, verbose=0).items()}


def files(found: dict[str, np.ndarray], metadata: dict[str, bytes]) -> dict[str, bytes]:
    """Returns the projector's files by path, the one that names the others last.

    Args:
        found: vectors by layer name.
        metadata: a table's bytes by layer name, one row a vector.
    """
    config = projector_config_pb2.ProjectorConfig()
    made: dict[str, bytes] = {}
    for name, values in found.items():
        path = f"embedding-{name.replace('/', '-')}.tsv"
        entry = config.embeddings.add(tensor_name=name, tensor_path=path, tensor_shape=list(values.shape))
        out = io.StringIO()
        np.savetxt(out, values, fmt="%.7g", delimiter="\t")
        made[path] = out.getvalue().encode()
        if name in metadata:
            entry.metadata_path = path.replace("embedding-", "metadata-", 1)
            made[entry.metadata_path] = metadata[name]
    return made | {CONFIG: text_format.MessageToString(config).encode()}


def _flat(values: Any) -> np.ndarray:
    array = np.asarray(keras.ops.convert_to_numpy(values))
    return array.reshape(array.shape[0], -1)
