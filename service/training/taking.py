"""One step taken: compared where it is the model's first, and heard what the workers wish."""

from typing import Any

from service.cluster.consensus import Council
from service.errors import WorkersDiffer
from service.training.first_step import FirstStep
from service.training.plan import Batch
from service.training.step import Step
from service.training.wishes import heard


def take(
    step: Step, batch: Batch, council: Council, telling: bool = False, rate_setter: str = ""
) -> tuple[Any, tuple[bool, bool, bool], dict[str, Any]]:
    """Takes a step. Collective: every worker calls this.

    Args:
        telling: whether the gradients are wanted.
        rate_setter: what set a learning rate last on this worker, for a message.

    Returns:
        Its results, whether a worker wished to stop, to save and to leave, and the gradients.

    Raises:
        WorkersDiffer: the workers' learning rates are not the same; what set them is named.
        NotExact: the model's first step is not the step of one device.
    """
    check = FirstStep(step) if not step.is_checked else None
    act = step.train_telling if telling else step.train
    try:
        results, control, did, *told = act(batch.rows, batch.numbers, batch.weight_sums)
        wished = heard(control.numpy())
    except WorkersDiffer as error:
        setters = council.texts(rate_setter)
        raise WorkersDiffer(f"{error} Set last by: {', '.join(setter or 'nothing' for setter in setters)}.") from None
    if check is not None:
        check.compare(batch.whole(), batch.weight_sums, did)
    gradients = {path: gradient.numpy() for path, gradient in told[0].items()} if telling else {}
    return results, wished, gradients
