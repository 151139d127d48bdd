"""Whether a Ray cluster can be reached, takes a token, and lets in who has none."""

import http.client
import os
import pathlib
import urllib.error
import urllib.request
from typing import Literal

Answer = Literal["lets in", "refuses", "is no Ray head", "does not answer"]

# Of each server one call that changes nothing; an empty message is a valid request to all of them.
_HEAD = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_CLIENTS = "/ray.rpc.RayletDriver/ClusterInfo"
_JOBS = "/api/jobs/"


def ask(address: str, token: str | None, timeout_seconds: float = 5.0) -> Answer:
    """Returns how a cluster answers a caller with a token, or with none.

    Args:
        address: of the job server (http://head:8265), the head (head:6379), or its server of clients (ray://head:10001).
        token: what the caller shows; None shows nothing.
        timeout_seconds: how long an answer may take.
    """
    if address.startswith(("http://", "https://")):
        return _ask_http(address.rstrip("/") + _JOBS, token, timeout_seconds)
    if address.startswith("ray://"):
        return _ask_grpc(address.removeprefix("ray://"), _CLIENTS, token, timeout_seconds)
    return _ask_grpc(address, _HEAD, token, timeout_seconds)


def token_here() -> tuple[str | None, str]:
    """Returns this user's token, as Ray finds it, and where it stands; None and where one could stand."""
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return given, "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = pathlib.Path(named).expanduser() if named else pathlib.Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text().strip() or None, str(path)
    except OSError:
        return None, str(path)


def _ask_http(url: str, token: str | None, timeout_seconds: float) -> Answer:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    # Of this machine alone a proxy knows nothing, and no other may see the token.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    try:
        with opener.open(request, timeout=timeout_seconds):
            return "lets in"
    except urllib.error.HTTPError as error:
        error.close()
        return "refuses" if error.code in (401, 403) else "is no Ray head"
    except (OSError, http.client.HTTPException):
        return "does not answer"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        """Takes a redirect for an answer: what it leads to would get the token."""


def _ask_grpc(address: str, method: str, token: str | None, timeout_seconds: float) -> Answer:
    import grpc  # comes with Ray, and takes a while

    shown = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=timeout_seconds, metadata=shown)
        except grpc.RpcError as error:
            match error.code():
                case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                    return "refuses"
                case grpc.StatusCode.NOT_FOUND:  # the caller was let in, as a client that is not connected
                    return "lets in"
                case grpc.StatusCode.UNIMPLEMENTED:
                    return "is no Ray head"
                case _:
                    return "does not answer"
    return "lets in"
