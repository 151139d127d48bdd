import errno
import random

import aiohttp
import botocore.exceptions
import gcsfs.retry
import google.auth.exceptions
import pytest
import requests.exceptions
import s3fs.errors
from fsspec.exceptions import FSTimeoutError

from service.storage import retries
from tests.storage.faults import Clock


def boto(status, code):
    return botocore.exceptions.ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )


def translated(status, code):
    return s3fs.errors.translate_boto_error(boto(status, code))


def cut_short():
    """A body that ended early, as aiohttp raises it: what lies behind has a status 400 of aiohttp's own."""
    try:
        raise aiohttp.ClientPayloadError("not completed") from aiohttp.http_exceptions.ContentLengthError("5 of 10")
    except aiohttp.ClientPayloadError as error:
        return error


TRANSIENT = [
    TimeoutError(),
    FSTimeoutError(),
    ConnectionResetError(),
    BrokenPipeError(),
    OSError(errno.ESTALE, "NFS"),
    gcsfs.retry.HttpError({"code": 429, "message": "slow down"}),
    gcsfs.retry.HttpError({"code": "503"}),
    gcsfs.retry.ChecksumError(),
    requests.exceptions.ProxyError(),
    requests.exceptions.ReadTimeout(),
    google.auth.exceptions.TransportError(),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientPayloadError(),
    cut_short(),
    aiohttp.ClientOSError(errno.ECONNRESET, "reset"),
    botocore.exceptions.EndpointConnectionError(endpoint_url="x"),
    botocore.exceptions.ReadTimeoutError(endpoint_url="x"),
    boto(503, "SlowDown"),
    translated(503, "SlowDown"),
    translated(500, "InternalError"),
    translated(409, "ConditionalRequestConflict"),
    translated(429, "TooManyRequests"),
]
LASTING = [
    FileNotFoundError(),
    FileExistsError(),
    PermissionError(),
    OSError(errno.ENOSPC, "full"),
    OSError("Forbidden: b/o"),
    ValueError("Bad Request"),
    KeyError("x"),
    gcsfs.retry.HttpError({"code": 401, "message": "Invalid Credentials"}),
    gcsfs.retry.HttpError({"code": 400}),
    google.auth.exceptions.DefaultCredentialsError(),
    botocore.exceptions.NoCredentialsError(),
    translated(403, "AccessDenied"),
    translated(404, "NoSuchKey"),
    translated(412, "PreconditionFailed"),
    translated(400, "InvalidRequest"),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_what_passes_by_itself_is_tried_again(error):
    assert retries.is_transient(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_stays_is_not_tried_again(error):
    assert not retries.is_transient(error)


def test_waits_grow_to_the_longest_and_end_at_the_deadline():
    clock, tries = Clock(), []
    policy = retries.Policy(first_seconds=1.0, longest_seconds=8.0, deadline_seconds=60.0, clock=clock, sleep=clock.sleep)

    def fail():
        tries.append(clock.now)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        policy.call(fail)
    for wait, longest in zip(clock.sleeps, [1.0, 2.0, 4.0, *[8.0] * 99], strict=False):
        assert longest / 2 <= wait <= longest
    assert 52.0 <= tries[-1] <= 60.0


def test_waiting_does_not_draw_from_the_authors_random_numbers():
    clock = Clock()
    state = random.getstate()
    errors = iter([TimeoutError(), TimeoutError()])

    def fail_twice():
        for error in errors:
            raise error
        return 7

    assert retries.Policy(clock=clock, sleep=clock.sleep).call(fail_twice) == 7
    assert len(clock.sleeps) == 2 and random.getstate() == state
