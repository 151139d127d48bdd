"""The only file that knows Keras's private names, and checks them at start."""

import ast
import contextlib
import copy
import functools
import importlib
import importlib.metadata
import importlib.util
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from service.errors import EnvironmentUnfit

KERAS_VERSION = "3.15"


class Seam(NamedTuple):
    """A private function of Keras or TensorFlow that a step replaces.

    Attributes:
        module: where it is defined.
        name: its name there, with the class in front of a method.
        arguments: the names of its first arguments, in order.
    """

    module: str
    name: str
    arguments: tuple[str, ...]


REDUCE_WEIGHTED_VALUES = Seam(
    "keras.src.losses.loss", "reduce_weighted_values", ("values", "sample_weight", "mask", "reduction", "dtype")
)
LOSS_CALL = Seam("keras.src.losses.loss", "Loss.__call__", ("self", "y_true", "y_pred", "sample_weight"))
SCALE_LOSS = Seam("keras.src.losses.loss", "scale_loss_for_distribution", ("value",))
UNSCALE_LOSS = Seam("keras.src.losses.loss", "unscale_loss_for_distribution", ("value",))
ADDED_LOSS = Seam("keras.src.backend.tensorflow.trainer", "TensorFlowTrainer._aggregate_additional_loss", ("self", "loss"))
ADD_LOSS = Seam("keras.src.layers.layer", "Layer.add_loss", ("self", "loss"))
OWN_LOSSES = Seam("keras.src.layers.layer", "Layer._get_own_losses", ("self",))
CLEAR_LOSSES = Seam("keras.src.layers.layer", "Layer._clear_losses", ("self",))
MOMENTS = Seam("keras.src.layers.normalization.batch_normalization", "BatchNormalization._moments", ("self", "inputs", "mask"))
OPTIMIZER_APPLY = Seam("keras.src.optimizers.base_optimizer", "BaseOptimizer.apply", ("self", "grads", "trainable_variables"))
LOSS_SCALE_APPLY = Seam(
    "keras.src.optimizers.loss_scale_optimizer", "LossScaleOptimizer.apply", ("self", "grads", "trainable_variables")
)
METRIC_UPDATE = Seam("keras.src.metrics.metric", "Metric.update_state", ("self",))
METRIC_RESULT = Seam("keras.src.metrics.metric", "Metric.result", ("self",))
_RANDOM_OPS = "tensorflow.python.ops.gen_stateless_random_ops_v2"
NORMAL = Seam(_RANDOM_OPS, "stateless_random_normal_v2", ("shape", "key", "counter", "alg"))
UNIFORM = Seam(_RANDOM_OPS, "stateless_random_uniform_v2", ("shape", "key", "counter", "alg"))
UNIFORM_INT = Seam(_RANDOM_OPS, "stateless_random_uniform_int_v2", ("shape", "key", "counter", "alg"))
TRUNCATED_NORMAL = Seam(_RANDOM_OPS, "stateless_truncated_normal_v2", ("shape", "key", "counter", "alg"))
GAMMA = Seam(_RANDOM_OPS, "stateless_random_gamma_v3", ("shape", "key", "counter", "alg", "alpha"))
_OLD_RANDOM_OPS = "tensorflow.python.ops.gen_stateless_random_ops"
BINOMIAL = Seam(_OLD_RANDOM_OPS, "stateless_random_binomial", ("shape", "seed", "counts", "probs"))
CATEGORICAL = Seam(_OLD_RANDOM_OPS, "stateless_multinomial", ("logits", "num_samples", "seed"))
SHUFFLE = Seam("keras.src.backend.tensorflow.random", "shuffle", ("x", "axis", "seed"))

_USED = (  # private names that are called, not replaced
    Seam("keras.src.trainers.trainer", "Trainer._symbolic_build", ("self", "iterator", "data_batch")),
    Seam("keras.src.trainers.trainer", "Trainer._compute_loss", ("self", "x", "y", "y_pred", "sample_weight", "training")),
    Seam("keras.src.trainers.trainer", "Trainer._flatten_metrics_in_order", ("self", "logs")),
    Seam("keras.src.trainers.compile_utils", "CompileMetrics._flatten_y", ("self", "y")),
    Seam("keras.src.losses.loss", "squeeze_or_expand_to_same_rank", ("x1", "x2")),
    Seam("keras.src.optimizers.base_optimizer", "BaseOptimizer._apply_weight_decay", ("self", "variables")),
    Seam("keras.src.optimizers.base_optimizer", "BaseOptimizer._backend_update_step", ("self", "grads", "trainable_variables")),
    Seam("keras.src.optimizers.base_optimizer", "BaseOptimizer._backend_increment_gradient_accumulators", ("self", "grads")),
    Seam("keras.src.optimizers.base_optimizer", "BaseOptimizer._overwrite_model_variables_with_average_value", ("self",)),
    Seam(
        "tensorflow.python.eager.polymorphic_function.concrete_function",
        "ConcreteFunction._call_flat",
        ("self", "tensor_inputs", "captured_inputs"),
    ),
    Seam("keras.src.backend.tensorflow.optimizer", "TFOptimizer._all_reduce_sum_gradients", ("self", "grads_and_vars")),
)
_REPLACED = (
    *(REDUCE_WEIGHTED_VALUES, LOSS_CALL, SCALE_LOSS, UNSCALE_LOSS, ADDED_LOSS, MOMENTS),
    *(ADD_LOSS, OWN_LOSSES, CLEAR_LOSSES),
    *(OPTIMIZER_APPLY, LOSS_SCALE_APPLY, METRIC_UPDATE, METRIC_RESULT),
    *(NORMAL, UNIFORM, UNIFORM_INT, TRUNCATED_NORMAL, GAMMA, BINOMIAL, CATEGORICAL, SHUFFLE),
)


def check() -> None:
    """Reads the sources of Keras and TensorFlow, without importing them, for every name that is relied on.

    Raises:
        EnvironmentUnfit: the version is another one, or a name has moved or changed its arguments.
    """
    version = importlib.metadata.version("keras")
    if not version.startswith(KERAS_VERSION + "."):
        raise EnvironmentUnfit(
            f"Keras {version} is installed; this SameStep is exact with Keras {KERAS_VERSION}, whose private names it "
            f"replaces while a step is traced. Install it: pip install 'keras=={KERAS_VERSION}.*'."
        )
    for seam in (*_USED, *_REPLACED):
        found = _arguments(seam)
        if found is None or found[: len(seam.arguments)] != seam.arguments:
            raise EnvironmentUnfit(
                f"{seam.module}.{seam.name} of Keras {version} "
                f"{'is not there' if found is None else f'takes {found}'}; expected {seam.arguments}. "
                "This installation of Keras or TensorFlow is changed or of another version: install the pinned ones."
            )


def replace(seam: Seam, replacement: Callable[..., Any]) -> None:
    """Puts `replacement(original, replica, *arguments)` where Keras looks, for steps of this package only.

    Without a step in the calling thread the original runs, so an author's own use of
    Keras beside a run is untouched. Replacing twice is replacing once.
    """
    holder, name = _holder(seam)
    _wrap(holder, name, replacement)


def replace_in_all(seam: Seam, replacement: Callable[..., Any]) -> None:
    """Does the same for a method that every subclass there is by now may define anew, an author's ones too."""
    holder, name = _holder(seam)
    classes = [holder]
    for one in classes:
        classes += one.__subclasses__()
    for one in classes:
        if name in vars(one):
            _wrap(one, name, replacement)


def _holder(seam: Seam) -> tuple[Any, str]:
    holder: Any = importlib.import_module(seam.module)
    *owners, name = seam.name.split(".")
    for owner in owners:
        holder = getattr(holder, owner)
    return holder, name


def _wrap(holder: Any, name: str, replacement: Callable[..., Any]) -> None:
    from service.exact import replica as replicas

    original = getattr(holder, name)
    if hasattr(original, "_samestep_original"):
        return

    @functools.wraps(original)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        replica = replicas.current()
        if replica is None:
            return original(*args, **kwargs)
        return replacement(original, replica, *args, **kwargs)

    chosen._samestep_original = original  # type: ignore[attr-defined]  # marks it as replaced
    setattr(holder, name, chosen)


@functools.cache
def _definitions(module: str) -> dict[str, tuple[str, ...]]:
    package, *parts = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return {}
    path = pathlib.Path(spec.submodule_search_locations[0], *parts).with_suffix(".py")
    if not path.exists():
        return {}
    found: dict[str, tuple[str, ...]] = {}

    def visit(nodes: list[ast.stmt], prefix: str) -> None:
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                found[prefix + node.name] = tuple(a.arg for a in (*node.args.posonlyargs, *node.args.args))

    visit(ast.parse(path.read_text()).body, "")
    return found


def _arguments(seam: Seam) -> tuple[str, ...] | None:
    return _definitions(seam.module).get(seam.name)


def global_seed_generator() -> Any:
    """Returns the generator behind draws without a seed; made before a step is traced, as variables must be."""
    from keras.src.random.seed_generator import global_seed_generator

    return global_seed_generator()


def random_seed() -> int | None:
    """Returns the seed given to `keras.utils.set_random_seed`, or None."""
    from keras.src.utils.rng_utils import get_random_seed

    return get_random_seed()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Lets models be made in the block and leaves no trace: the seeds and names that Keras gives next stay what they were."""
    from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute

    drawn, named = random.getstate(), get_global_attribute("object_name_uids")
    set_global_attribute("object_name_uids", copy.copy(named))
    try:
        yield
    finally:
        random.setstate(drawn)
        set_global_attribute("object_name_uids", named)


def is_default(method: Any) -> bool:
    """Whether a callback's method is the one of Keras's base class, which does nothing."""
    return hasattr(method, "_is_default")


def has_schedule(optimizer: Any) -> bool:
    """Whether an optimizer takes its learning rate from a schedule."""
    from keras.src.optimizers.schedules.learning_rate_schedule import LearningRateSchedule

    return isinstance(getattr(optimizer, "_learning_rate", None), LearningRateSchedule)


def knows_direction(model: Any, monitor: str) -> bool:
    """Whether Keras knows by itself which way a watched number is better; else it refuses `mode="auto"`."""
    name = monitor.removeprefix("val_")
    compiled = model._compile_metrics.metrics if model._compile_metrics is not None else []
    return name == "loss" or any(metric.name == name and hasattr(metric, "_direction") for metric in compiled)


def backed_up_epoch(model: Any) -> int:
    """Returns the epoch that Keras's BackupAndRestore found, 0 without one; it holds for one fit."""
    epoch, model._initial_epoch = getattr(model, "_initial_epoch", None) or 0, None
    return epoch


def pythonify(logs: dict[str, Any]) -> dict[str, Any]:
    """Returns logs as Keras gives them to callbacks: sorted, plain floats where they can be."""
    from keras.src.utils.python_utils import pythonify_logs

    return pythonify_logs(logs)
