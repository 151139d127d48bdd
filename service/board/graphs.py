"""The graph of Keras's layers, and the traced graph of a step."""

import json
from typing import Any

import tensorflow as tf


def write_layers(model: Any) -> None:
    """Writes the graph of the layers, where the model has one."""
    try:
        layers = json.dumps(json.loads(model.to_json()))
    except Exception:  # an author's layer that cannot be described shows no graph, and trains
        return
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name, metadata.plugin_data.content = "graph_keras_model", b"1"
    if json.loads(layers)["config"].get("layers"):
        tf.summary.write("keras", layers, step=0, metadata=metadata)


def write_traced(function: Any) -> None:
    """Writes the graph of a tf.function as it was traced; nothing of one that runs eagerly."""
    if hasattr(function, "get_concrete_function"):
        tf.summary.graph(function.get_concrete_function().graph)
