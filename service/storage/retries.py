"""Which storage errors pass by themselves, and how long to wait for that."""

import dataclasses
import errno
import random
import time
from collections.abc import Callable
from typing import Any

import tenacity

_ERRNO = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.EIO,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EREMOTEIO,  # a 500 from s3fs
    errno.ESTALE,  # a file handle of NFS after its server came back
    errno.ETIMEDOUT,
}
_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}

# By name, so that no storage package is imported to ask.
_CLASSES = {
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",  # a body shorter than its Content-Length
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "botocore.exceptions.IncompleteReadError",
    "gcsfs.retry.ChecksumError",
    "google.auth.exceptions.RefreshError",
    "google.auth.exceptions.TransportError",
    "requests.exceptions.ChunkedEncodingError",
    "requests.exceptions.ConnectionError",  # its ProxyError is a 502 from gcsfs
    "requests.exceptions.Timeout",
}


def status_of(error: BaseException | None) -> int | None:
    """Returns the HTTP status that an error of gcsfs, s3fs or aiohttp stands for, if any."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        for name in ("code", "status"):
            value = getattr(error, name, None)
            if isinstance(value, int | str) and str(value).isdigit():
                return int(value)
        error = error.__cause__
    return None


def is_transient(error: BaseException) -> bool:
    """Whether the same call may well succeed a little later."""
    if isinstance(error, FileNotFoundError | FileExistsError | PermissionError):
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    # First: what lies behind a body that is cut short carries aiohttp's own status 400.
    if any(f"{kind.__module__}.{kind.__qualname__}" in _CLASSES for kind in type(error).__mro__):
        return True
    if (status := status_of(error)) is not None:
        return status in _STATUS
    return isinstance(error, OSError) and error.errno in _ERRNO


@dataclasses.dataclass(frozen=True)
class Policy:
    """How a call to a storage is tried again: longer waits each time, until a deadline.

    Attributes:
        first_seconds: the longest first wait; each later one may be twice as long.
        longest_seconds: no wait is longer.
        deadline_seconds: no try starts later than this after the first one.
        clock: monotonic seconds.
        sleep: waits for some seconds.
    """

    first_seconds: float = 0.25
    longest_seconds: float = 20.0
    deadline_seconds: float = 120.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def call(self, action: Callable[[], Any], tell: Callable[[BaseException | None], None] = lambda error: None) -> Any:
        """Returns `action()`, tried again after transient errors; then raises the last one.

        `tell` hears of each error that is followed by another try.
        """
        began = self.clock()
        # tenacity's own jitter draws from Python's shared generator, and would so change
        # the numbers an author's code draws after an error of the network.
        generator = random.Random()

        def wait(state: tenacity.RetryCallState) -> float:
            longest = min(self.first_seconds * 2.0 ** min(state.attempt_number - 1, 30), self.longest_seconds)
            return longest * (0.5 + 0.5 * generator.random())

        def stop(state: tenacity.RetryCallState) -> bool:
            return self.clock() - began + state.upcoming_sleep > self.deadline_seconds

        def before_sleep(state: tenacity.RetryCallState) -> None:
            tell(state.outcome.exception() if state.outcome else None)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=wait,
            stop=stop,
            sleep=self.sleep,
            before_sleep=before_sleep,
            reraise=True,
        )
        return retrying(action)
