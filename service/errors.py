"""What can go wrong for a job's author, and what to do next.

Every message says what was given, what is expected and what to change. The classes
also derive from the built-in error an author would catch in plain Keras code.
"""

import difflib
from collections.abc import Iterable


class ServiceError(Exception):
    """The base of every error that SameStep raises on purpose."""


class RunInvalid(ServiceError, ValueError):
    """The description of a run cannot be carried out as it stands."""


class OptionUnknown(RunInvalid, TypeError):
    """An option's name is not one there is."""


class EnvironmentUnfit(ServiceError, RuntimeError):
    """This Python, its packages or its variables cannot run SameStep."""


class ClusterTooSmall(ServiceError, RuntimeError):
    """The cluster cannot hold the workers that the run asks for."""


class DataInvalid(ServiceError, ValueError):
    """The arrays or weights given cannot be trained on."""


class ModelInvalid(ServiceError, ValueError):
    """The model cannot be trained as it was built or compiled."""


class NotExact(ServiceError, RuntimeError):
    """The step on many replicas would not be the step of one device."""


class WorkersDiffer(ServiceError, RuntimeError):
    """Workers hold different values where they must hold the same."""


class StorageError(ServiceError, OSError):
    """The storage cannot do what a run needs."""


class StorageAway(StorageError):
    """The storage did not answer until its retries ran out; the same call may well succeed later."""


class Superseded(StorageError):
    """A newer attempt has taken the run over, so this one must stop."""


class Corrupt(StorageError):
    """Bytes read back are not the bytes that were committed."""


class JobFailed(ServiceError, RuntimeError):
    """The author's code raised on a worker; the message carries its traceback."""


class WorkersLost(ServiceError, RuntimeError):
    """Worker processes died more often than the run's max_restarts."""


class PeerLost(Exception):
    """A collective of TensorFlow failed on a worker, as it does where another worker is gone; starting again mends that.

    The message is TensorFlow's. Its own class would have it imported by whoever hears of the error.
    """


class StartAgain(Exception):
    """No error: a new attempt takes up what this one committed. It counts for no restart, and is never the author's."""


class Moved(StartAgain):
    """The workers committed and make way, because a machine is taken away or the number of workers changes."""


class RolledBack(StartAgain):
    """Training diverged, and goes on from an earlier checkpoint without the batches that led there."""


class Diverged(ServiceError, RuntimeError):
    """The loss is no finite number, or far above what it was, and the run may not go back once more."""


class RunInterrupted(ServiceError, RuntimeError):
    """The run was asked to stop; it committed where it was, and the same command goes on from there."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `name`'s likely correction as a sentence, or the list of what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f'Did you mean "{close[0]}"?' if close else f"There is: {', '.join(known)}."
