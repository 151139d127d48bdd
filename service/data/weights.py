"""Sample weights: what is given per sample, per output or per class, checked and multiplied."""

from typing import Any, NamedTuple

import keras
import numpy as np

from service.data.sources import Arrays
from service.errors import DataInvalid, ModelInvalid, did_you_mean


def check(source: Arrays) -> None:
    """Refuses weights that are NaN or infinite; zero and negative ones are legal.

    Raises:
        DataInvalid: naming the argument and the first bad row.
    """
    for name, leaf in source.leaves():
        if not name.startswith(source.of + "sample_weight"):
            continue
        finite = np.isfinite(leaf)
        if not finite.all():
            row = int(np.argwhere(~finite)[0][0])
            raise DataInvalid(
                f"{name} is {leaf[row]!r} at row {row}: expected finite weights, since one that is not makes every weight "
                "of the model NaN. Give a row that shall not count the weight 0."
            )


def with_class_weight(source: Arrays, class_weight: Any) -> Arrays:
    """Returns the data with each sample's weight multiplied by its class's, the outputs known by y alone."""
    if class_weight is None:
        return source
    x, y, sample_weight = source.like
    return Arrays(x, y, weighed(None, x, y, sample_weight, class_weight))


def weighed(model: Any, x: Any, y: Any, sample_weight: Any, class_weight: Any) -> Any:
    """Returns the sample weights of one batch or of all rows, multiplied by each sample's class's.

    The result is nested as the model's outputs, where Keras looks for each output's weights; one
    array for all outputs stays one array. Class weights are for training: give None in evaluation.

    Args:
        model: the compiled model; None if only y tells what the outputs are.
        x, y: arrays [n, ...], or lists or dicts of arrays, as Keras takes them.
        sample_weight: an array [n] or [n, steps], or a list or dict of arrays, one an output, None for one
            that counts every sample alike. Dicts are by output name, whatever the outputs' nesting.
        class_weight: a dict of class: weight, where a class that is not named weighs 1, or a list or dict of
            such dicts, one an output. Classes are numbers [n], or one-hot rows [n, classes]; each step's, if y
            has those, [n, steps, classes] or [n, steps, 1].

    Raises:
        DataInvalid: they do not fit y or the outputs, or are no finite numbers.
        ModelInvalid: nothing in the model would use them.
    """
    if sample_weight is None and class_weight is None:
        return None
    _check_used(model, "class_weight" if sample_weight is None else "sample_weight")
    if not all(leaf is None or isinstance(leaf, np.ndarray) for leaf in keras.tree.flatten((x, y, sample_weight))):
        x, y, sample_weight = Arrays(x, y, sample_weight).like
    outputs = _outputs(model, y)
    given = _spread(sample_weight, outputs, "sample_weight")
    for weight in given:
        _check_rows(weight, y if y is not None else x)
    if class_weight is None:
        return sample_weight if not keras.tree.is_nested(sample_weight) else outputs.packed(given)
    targets = _spread(y, outputs, "y")
    by_class = _class_weights(class_weight, outputs)
    sparse = [_takes_class_numbers(loss) for loss in _losses(model, outputs)]
    products = [
        _product(weight, None if classes is None else _of_classes(target, classes, numbers))
        for weight, target, classes, numbers in zip(given, targets, by_class, sparse, strict=True)
    ]
    return outputs.packed(products)


class _Outputs(NamedTuple):
    """What a model's outputs are called.

    Attributes:
        like: anything nested as the outputs.
        names: for each output, flat, the names it goes by: its key in a dict, its layer's.
        trained: the places of those that have a loss, to which a shorter list belongs.
    """

    like: Any
    names: list[list[str]]
    trained: list[int]

    def packed(self, flat: list[Any]) -> Any:
        """Returns one value an output nested as the outputs; a single output's as it is."""
        return flat[0] if len(flat) == 1 else keras.tree.pack_sequence_as(self.like, flat)

    def known(self) -> str:
        """Returns the outputs' names for a message."""
        return ", ".join(names[0] if names else f"number {i}" for i, names in enumerate(self.names))


def _outputs(model: Any, y: Any) -> _Outputs:
    """Returns the model's outputs; those of a model that only its call describes are nested as y."""
    layers = list(getattr(model, "output_names", None) or [])
    like = y
    if isinstance(model, keras.Sequential):
        like, layers = 0, [model.layers[-1].name] if model.layers else []
    elif layers and isinstance(getattr(model, "outputs", None), list):
        like = model.output
    places = [path for path, _ in keras.tree.flatten_with_path(like)]
    keys = ["/".join(map(str, path)) if any(isinstance(part, str) for part in path) else None for path in places]
    if len(layers) != len(keys):
        layers = [None] * len(keys)
    names = [[name for name in pair if name is not None] for pair in zip(keys, layers, strict=True)]
    outputs = _Outputs(like, names, list(range(len(names))))
    trained = [i for i, loss in enumerate(_losses(model, outputs)) if loss is not None]
    return outputs._replace(trained=trained) if trained else outputs


def _losses(model: Any, outputs: _Outputs) -> list[Any]:
    """Returns each output's loss; None where that cannot be told, which is for Keras to refuse."""
    try:
        return _spread(getattr(model, "loss", None), outputs, "loss")
    except DataInvalid:
        return [None] * len(outputs.names)


def _spread(value: Any, outputs: _Outputs, argument: str) -> list[Any]:
    """Returns one entry an output, flat: of a list by place, of a dict by name, of one value for all that value."""
    count = len(outputs.names)
    if not keras.tree.is_nested(value):
        return [value] * count
    if isinstance(value, dict):
        return _by_name(value, outputs, argument)
    entries = list(value) if argument == "class_weight" else keras.tree.flatten(value)
    if len(entries) == count:
        return entries
    if len(entries) == len(outputs.trained):
        filled = dict(zip(outputs.trained, entries, strict=True))
        return [filled.get(i) for i in range(count)]
    raise DataInvalid(
        f"{argument} is a list of {len(entries)}, but the model has {count} output{'s' * (count > 1)}: {outputs.known()}. "
        "Give one entry an output, None for one that has none."
    )


def _by_name(value: dict[Any, Any], outputs: _Outputs, argument: str) -> list[Any]:
    places = {name: i for i, names in enumerate(outputs.names) for name in names}
    if unknown := [name for name in value if name not in places]:
        flat = keras.tree.flatten(value)
        if argument != "class_weight" and len(flat) == len(outputs.names) and len(value) != len(flat):
            return flat  # dicts of lists, nested as the outputs
        there = did_you_mean(str(unknown[0]), places) if places else "Its outputs have no names: give a list."
        raise DataInvalid(f'{argument} names "{unknown[0]}", which is no output of the model. {there}')
    named = {places[name]: entry for name, entry in value.items()}
    return [named.get(i) for i in range(len(outputs.names))]


def _class_weights(class_weight: Any, outputs: _Outputs) -> list[Any]:
    if _is_of_classes(class_weight):
        if len(outputs.names) > 1:
            first = outputs.names[0][0] if outputs.names[0] else None
            written = f'{{"{first}": {class_weight!r}}}' if first else f"[{class_weight!r}, None]"
            raise DataInvalid(
                f"class_weight={class_weight!r} is one dict, but the model has {len(outputs.names)} outputs: "
                f"{outputs.known()}. Say which output it is for: class_weight={written}."
            )
        return [_checked(class_weight)]
    if not isinstance(class_weight, list | tuple | dict) or not all(
        entry is None or isinstance(entry, dict)
        for entry in (class_weight.values() if isinstance(class_weight, dict) else class_weight)
    ):
        raise DataInvalid(
            f"class_weight={class_weight!r}: expected a dict of class: weight, or a list or dict of such dicts, one an "
            "output. For one weight a class in order write class_weight=dict(enumerate(weights))."
        )
    return [None if entry is None else _checked(entry) for entry in _spread(class_weight, outputs, "class_weight")]


def _is_of_classes(given: Any) -> bool:
    """Whether it is class: weight of one output, not output: classes."""
    return isinstance(given, dict) and not (given and all(isinstance(v, dict | None) for v in given.values()))


def _checked(given: dict[Any, Any]) -> dict[int, float]:
    numbers = (int, float, np.number)
    if wrong := [label for label in given if not isinstance(label, numbers) or label != int(label)]:
        raise DataInvalid(f"class_weight has the key {wrong[0]!r}: expected the numbers of classes, as {{0: 1.0, 1: 5.0}}.")
    bad = {label: weight for label, weight in given.items() if not isinstance(weight, numbers) or not np.isfinite(weight)}
    if bad:
        raise DataInvalid(f"class_weight={bad!r}: expected finite weights. Give a class that shall not count the weight 0.")
    return {int(label): float(weight) for label, weight in given.items()}


def _of_classes(y: Any, class_weight: dict[int, float], numbers: bool) -> np.ndarray:
    """Returns [n], or [n, steps] where y has steps: the weight of each one's class."""
    if y is None:
        raise DataInvalid(f"class_weight={class_weight!r} needs a y of class numbers or one-hot rows; there is none.")
    y = np.asarray(y)
    if y.ndim > 1 and y.shape[-1] == 1:
        y = y[..., 0]
    elif y.ndim > 1 and not numbers:
        if y.size and not (y.min() >= 0 and y.max() <= 1):
            raise DataInvalid(
                f"class_weight={class_weight!r} needs a y of class numbers [rows] or one-hot rows [rows, classes]; y has "
                f"shape {y.shape} and values from {y.min():g} to {y.max():g}. Give sample_weight instead, a weight an entry."
            )
        y = np.argmax(y, axis=-1)
    labels, places = np.unique(np.round(y).astype("int64"), return_inverse=True)
    weights = np.array([class_weight.get(int(label), 1.0) for label in labels], dtype=keras.config.floatx())
    return weights[places].reshape(y.shape)


def _takes_class_numbers(loss: Any) -> bool:
    """Whether the loss reads y [n, steps] as numbers of classes."""
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return "sparse" in name.lower()


def _product(weight: Any, by_class: np.ndarray | None) -> Any:
    if weight is None or by_class is None:
        return by_class if weight is None else weight
    weight = np.asarray(weight)
    rank = max(weight.ndim, by_class.ndim)
    one, other = (part.reshape(part.shape + (1,) * (rank - part.ndim)) for part in (weight, by_class))
    try:
        with np.errstate(over="ignore"):
            product = (one.astype("float64") * other).astype(keras.config.floatx())
    except ValueError:
        raise DataInvalid(
            f"sample_weight has shape {weight.shape} and the classes of y have shape {by_class.shape}, which cannot be "
            "multiplied. Give one weight a row, or one for each class in y."
        ) from None
    if not np.isfinite(product).all():
        row = int(np.argwhere(~np.isfinite(product))[0][0])
        raise DataInvalid(f"sample_weight times class_weight is {product[row]} at row {row}: expected finite products.")
    return product


def _check_rows(weight: Any, data: Any) -> None:
    lengths = {len(leaf) for leaf in keras.tree.flatten(data) if leaf is not None}
    if weight is not None and (np.ndim(weight) == 0 or (lengths and len(weight) not in lengths)):
        raise DataInvalid(
            f"sample_weight has shape {np.shape(weight)} beside {' or '.join(map(str, sorted(lengths)))} rows of data: "
            "expected one weight a row, [rows] or [rows, steps]."
        )


def _check_used(model: Any, argument: str) -> None:
    """Refuses weights that Keras would ignore: those of a model whose losses are all its own layers'."""
    if model is None or model.loss is not None:
        return
    own = ("compute_loss", "train_step", "test_step", "compute_metrics")
    if any(getattr(type(model), name) is not getattr(keras.Model, name) for name in own):
        return
    if not getattr(model._compile_metrics, "_user_weighted_metrics", None):
        raise ModelInvalid(
            f'{argument} is given, but the model "{model.name}" was compiled with loss=None: what layers give to add_loss '
            "takes no weights, so they would not count. Multiply by them in the layer, or compile with a loss."
        )
