"""Keras 2's names, where Keras 3 would refuse them."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from service.errors import ModelInvalid, OptionUnknown, RunInvalid, did_you_mean

Method = TypeVar("Method", bound=Callable[..., Any])

RENAMED = {"nb_epoch": "epochs", "generator": "x"}
COUNTED_OTHERWISE = {  # Keras 1 counted samples where batches are counted now
    "samples_per_epoch": "steps_per_epoch",
    "nb_sample_per_epoch": "steps_per_epoch",
    "nb_val_samples": "validation_steps",
    "val_samples": "steps",
}
LOADING = {  # how batches are loaded, which changes no number; a keras.utils.PyDataset has these as attributes
    "workers": "workers",
    "nb_worker": "workers",
    "use_multiprocessing": "use_multiprocessing",
    "pickle_safe": "use_multiprocessing",
    "max_queue_size": "max_queue_size",
    "max_q_size": "max_queue_size",
}
# The order of Keras 2's positional arguments, behind the model.
GENERATOR_ARGUMENTS = {
    "fit_generator": (
        *("generator", "steps_per_epoch", "epochs", "verbose", "callbacks", "validation_data", "validation_steps"),
        *("validation_freq", "class_weight", "max_queue_size", "workers", "use_multiprocessing", "shuffle", "initial_epoch"),
    ),
    "evaluate_generator": ("generator", "steps", "callbacks", *("max_queue_size", "workers", "use_multiprocessing", "verbose")),
    "predict_generator": ("generator", "steps", "callbacks", *("max_queue_size", "workers", "use_multiprocessing", "verbose")),
}
FIT = (
    *("x", "y", "batch_size", "epochs", "verbose", "callbacks", "validation_split", "validation_data", "shuffle"),
    *("class_weight", "sample_weight", "initial_epoch", "steps_per_epoch", "validation_steps", "validation_batch_size"),
    "validation_freq",
)
COMPILE = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics", "run_eagerly", "steps_per_execution")
COMPILE_KEYWORDS = (*COMPILE, "jit_compile", "auto_scale_loss", "sample_weight_mode", "target_tensors")
LOSSES = {
    "kullback_leibler_divergence": "kl_divergence",
    "cosine": "cosine_similarity",
    "cosine_proximity": "cosine_similarity",
    "logcosh": "log_cosh",
    "huber_loss": "huber",
}
METRICS = {"kullback_leibler_divergence": "kl_divergence", "kld": "kl_divergence", "KLD": "kl_divergence"} | {
    **{"cosine": "cosine_similarity", "cosine_proximity": "cosine_similarity"},
    **{"logcosh": "log_cosh_error", "log_cosh": "log_cosh_error"},
}
LOGGED = (  # two names of one number in the logs
    ("acc", "accuracy"),
    ("lr", "learning_rate"),
    ("mae", "mean_absolute_error"),
    ("mse", "mean_squared_error"),
    ("mape", "mean_absolute_percentage_error"),
    ("msle", "mean_squared_logarithmic_error"),
)


def fit_arguments(given: Mapping[str, Any], known: Iterable[str] = FIT) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns Keras 2's keyword arguments under today's names, and apart those that only say how batches are loaded.

    Args:
        given: the keyword arguments, old names and new.
        known: the names that the method takes, for `OptionUnknown` to choose from.

    Raises:
        OptionUnknown: a name is no argument of Keras 2 or 3.
        RunInvalid: a number would mean something else under its new name, or is given twice.
    """
    known = set(known)
    now: dict[str, Any] = {}
    loading: dict[str, Any] = {}
    for name, value in given.items():
        if name in known:
            home, key = now, name
        elif name in LOADING:
            home, key = loading, LOADING[name]
        elif RENAMED.get(name) in known:
            home, key = now, RENAMED[name]
        elif name == "reset_metrics" and value is True:
            continue  # of train_on_batch: metrics begin anew with each batch
        else:
            raise _refusal(name, value, known)
        if key in home or (name != key and key in given):
            raise RunInvalid(f"{name}={value!r} is given beside {key}, which is its name today. Give {key} alone.")
        home[key] = value
    return now, loading


def _refusal(name: str, value: Any, known: set[str]) -> Exception:
    today = COUNTED_OTHERWISE.get(name)
    if today in known:
        return RunInvalid(
            f"{name}={value!r} counts samples; today {today} counts batches. Give {today}: the samples divided by the "
            "rows of a batch, rounded up."
        )
    if name == "reset_metrics":
        return RunInvalid(f"reset_metrics={value!r}: the metrics of each batch begin anew. Leave it out, or use service.fit.")
    return OptionUnknown(f'There is no argument "{name}". {did_you_mean(name, known | LOADING.keys())}')


def accepting(method: Method) -> Method:
    """Lets a method of Keras be called with Keras 2's keyword arguments too.

    What says how batches are loaded is set on a keras.utils.PyDataset; other data take no notice,
    since it changes no number.
    """
    known = [name for name, p in inspect.signature(method).parameters.items() if p.kind is not p.VAR_KEYWORD]

    @functools.wraps(method)
    def accepted(*args: Any, **kwargs: Any) -> Any:
        now, loading = fit_arguments(kwargs, known)
        if loading:
            values = dict(zip(known, args, strict=False)) | now
            for data in (values.get("x"), values.get("validation_data")):
                _load_so(data, loading)
        return method(*args, **now)

    return accepted  # type: ignore[return-value]  # the same arguments and more


def _load_so(data: Any, loading: Mapping[str, Any]) -> None:
    if all(hasattr(data, name) for name in ("workers", "use_multiprocessing", "max_queue_size")):
        for name, value in loading.items():
            setattr(data, name, value)


def by_position(method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of fit_generator, evaluate_generator or predict_generator, all by name.

    Raises:
        RunInvalid: there are more than the method has, or one is given twice.
    """
    names = GENERATOR_ARGUMENTS[method]
    if len(args) > len(names):
        raise RunInvalid(f"{method} got {len(args)} arguments by position: expected at most {len(names)}, {', '.join(names)}.")
    given = dict(zip(names, args, strict=False))
    if twice := given.keys() & kwargs.keys():
        raise RunInvalid(f"{method} got {min(twice)} twice, by position and by name. Give it once.")
    return {**given, **kwargs}


def monitor(name: str, logs: Iterable[str]) -> str:
    """Returns the name under which the logs hold what is asked for: "val_acc" is "val_accuracy" where only that is there."""
    there = set(logs)
    if name in there:
        return name
    for pair in LOGGED:
        for one, other in (pair, pair[::-1]):
            if name == one or name.endswith("_" + one):
                candidate = name[: len(name) - len(one)] + other
                if candidate in there:
                    return candidate
    return name


def compile(model: Any, optimizer: Any = "rmsprop", loss: Any = None, **options: Any) -> None:
    """Compiles the model as `keras.Model.compile`, and takes Keras 2's names too.

    Args:
        model: a Keras model.
        optimizer: a name, an optimizer, or Keras 2's {"class_name": ..., "config": {"lr": ..., "decay": ...}}.
        loss: a loss, or a list or dict of losses; names of Keras 2's losses too.
        options: metrics, weighted_metrics, loss_weights and the others of Keras, by name, because Keras 2
            and 3 have them in different orders. sample_weight_mode is checked and needs nothing else:
            weights [rows, steps] are taken as they are.

    Raises:
        OptionUnknown: there is no such option.
        ModelInvalid: an option's value cannot be meant.
    """
    if unknown := options.keys() - set(COMPILE_KEYWORDS):
        name = min(unknown)
        raise OptionUnknown(f'service.compile has no option "{name}". {did_you_mean(name, COMPILE_KEYWORDS)}')
    _check_mode(model, options.pop("sample_weight_mode", None))
    if options.pop("target_tensors", None) is not None:
        raise ModelInvalid("target_tensors: Keras 3 has no symbolic targets. Give the targets to fit, as y.")
    if isinstance(optimizer, Mapping) and set(optimizer) >= {"class_name", "config"} and "module" not in optimizer:
        optimizer = make_optimizer(optimizer["class_name"], **optimizer["config"])
    for kind in ("metrics", "weighted_metrics"):
        if kind in options:
            options[kind] = _today(options[kind], METRICS)
    loss = _today(loss, LOSSES)
    _check_losses(loss)
    model.compile(optimizer=optimizer, loss=loss, **options)


def make_optimizer(which: Any, **config: Any) -> Any:
    """Returns a Keras 3 optimizer from Keras 2's arguments.

    `lr` is learning_rate. `decay` divides it by 1 + decay * updates, which Keras 3 says by a schedule, so a
    callback that sets the rate cannot be used beside it.

    Args:
        which: the name of an optimizer, or its class: "sgd", keras.optimizers.SGD.

    Raises:
        OptionUnknown: the optimizer has no such argument.
    """
    import keras

    if isinstance(which, str):
        there = {name.lower(): found for name, found in vars(keras.optimizers).items() if _is_optimizer(found)}
        if which.lower() not in there:
            raise ModelInvalid(f'There is no optimizer "{which}". {did_you_mean(which.lower(), there)}')
        which = there[which.lower()]
    known = set(inspect.signature(which).parameters) - {"kwargs"}
    if "lr" in config:
        config["learning_rate"] = config.pop("lr")
    if decay := config.pop("decay", None):
        rate = config.get("learning_rate", inspect.signature(which).parameters["learning_rate"].default)
        config["learning_rate"] = keras.optimizers.schedules.InverseTimeDecay(rate, 1, decay)
    if config.get("epsilon", 0) is None:
        config["epsilon"] = keras.config.epsilon()
    if unknown := config.keys() - known:
        name = min(unknown)
        raise OptionUnknown(f'{which.__name__} has no argument "{name}". {did_you_mean(name, known)}')
    return which(**config)


def _is_optimizer(found: Any) -> bool:
    import keras

    return inspect.isclass(found) and issubclass(found, keras.optimizers.Optimizer) and found is not keras.optimizers.Optimizer


def _today(named: Any, renamed: Mapping[str, str]) -> Any:
    """Returns what names losses or metrics, nested as it is, with Keras 2's names replaced."""
    if isinstance(named, str):
        return renamed.get(named, named)
    if isinstance(named, dict):
        return {key: _today(item, renamed) for key, item in named.items()}
    if type(named) in (list, tuple):
        return type(named)(_today(item, renamed) for item in named)
    return named


def _check_losses(loss: Any) -> None:
    import keras

    for name in keras.tree.flatten(loss):
        if isinstance(name, str):
            try:
                keras.losses.get(name)
            except ValueError:
                there = {found for found, it in vars(keras.losses).items() if inspect.isfunction(it)} | {
                    "mse",
                    "mae",
                    "mape",
                    "msle",
                }
                raise ModelInvalid(
                    f'There is no loss "{name}". {did_you_mean(name, there - {"get", "serialize", "deserialize"})}'
                ) from None


def _check_mode(model: Any, mode: Any) -> None:
    """Refuses a sample_weight_mode that Keras 2 would refuse."""
    names = list(getattr(model, "output_names", None) or [])
    if isinstance(mode, dict) and names and (unknown := mode.keys() - set(names)):
        name = str(min(unknown, key=str))
        raise ModelInvalid(f'sample_weight_mode names "{name}", which is no output. {did_you_mean(name, names)}')
    if isinstance(mode, list | tuple) and names and len(mode) != len(names):
        raise ModelInvalid(f"sample_weight_mode={mode!r} has {len(mode)} entries; the model has {len(names)} outputs.")
    modes = list(mode.values()) if isinstance(mode, dict) else list(mode) if isinstance(mode, list | tuple) else [mode]
    if wrong := [entry for entry in modes if entry not in (None, "temporal")]:
        raise ModelInvalid(
            f'sample_weight_mode={wrong[0]!r}: expected None or "temporal". Leave it out: weights of shape [rows, steps] '
            "are taken as they are."
        )
