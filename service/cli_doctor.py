"""What this machine, a storage and a cluster lack for a run, and how to mend it."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any, Literal

from packaging.requirements import Requirement

from service import environment, secrecy
from service.cluster import knock, ray_cluster
from service.errors import EnvironmentUnfit, RunInvalid, StorageError
from service.storage import retries, urls
from service.storage.store import Store

Check = dict[str, str]  # what was looked at, its state, and a text for whoever asked

_DEVICES = (
    "import json, tensorflow as tf; print(json.dumps([device.device_type for device in tf.config.list_physical_devices()]))"
)
_DEVICES_SECONDS = 120
_NO_TOKEN = (
    "Ray runs any code for whoever reaches it, and here it asks for no token: everyone who does owns its machines and what "
    "they may read and write. Turn the token on: `ray get-auth-token --generate` makes one, and every node is started with it "
    "and RAY_AUTH_MODE=token (on Kubernetes: authOptions, as in k8s/base). Until then let nobody else reach any of its ports."
)


def checks(storage: str | None, address: str | None, with_devices: bool) -> Iterator[Check]:
    """Yields what was looked at, each as it is known.

    Args:
        storage: the URL of a storage of runs; None looks at none.
        address: a cluster's; None takes the one that a run would join.
        with_devices: whether TensorFlow is started to see which devices it finds, which takes seconds.
    """
    yield _check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield _packages()
    yield _variables()
    if with_devices:
        yield _devices()
    if storage is not None:
        yield _storage(storage)
    yield _token_file()
    yield _cluster(address)


def _check(what: str, state: Literal["ok", "mend", "warning"], text: str) -> Check:
    return {"what": what, "state": state, "text": text}


def _packages() -> Check:
    """Compares what is installed with what this package asks for; nothing is imported."""
    try:
        asked = [Requirement(line) for line in importlib.metadata.requires("samestep") or ()]
    except importlib.metadata.PackageNotFoundError:  # run from its folder, such as a submitted job's
        asked = []
    wrong = []
    for one in asked:
        there = environment.version_of(one.name)
        if there is None and one.marker is None:
            wrong.append(f"{one.name} is not installed: pip install '{one}'")
        elif there is not None and not one.specifier.contains(there, prereleases=True):
            wrong.append(f"{one.name} {there} is none of {one.specifier}: pip install '{one.name}{one.specifier}'")
    if wrong:
        return _check("packages", "mend", "; ".join(wrong) + ".")
    versions = {name: version for name, version in environment.versions().items() if name != "python"}
    return _check("packages", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _variables() -> Check:
    try:
        environment.check()
    except EnvironmentUnfit as error:
        return _check("environment", "mend", str(error))
    return _check("environment", "ok", "Keras 3 on TensorFlow")


def _devices() -> Check:
    """Asks TensorFlow in a process of its own, whose devices are free again afterwards."""
    try:
        done = subprocess.run([sys.executable, "-c", _DEVICES], capture_output=True, text=True, timeout=_DEVICES_SECONDS)
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return _check(
            "devices", "mend", f"TensorFlow did not start within {_DEVICES_SECONDS} s; see what `import tensorflow` does."
        )
    except (IndexError, ValueError):
        lines = secrecy.redacted(done.stderr, secrecy.of_environment()).strip().splitlines()
        return _check("devices", "mend", f"TensorFlow does not start: {lines[-1] if lines else 'it says nothing'}")
    counts = {kind: found.count(kind) for kind in sorted(set(found))}
    return _check("devices", "ok", ", ".join(f"{count} {kind}" for kind, count in counts.items()))


def _storage(url: str) -> Check:
    """Writes, creates once, reads, lists and deletes one small file."""
    try:
        place = urls.check_url(url)
    except RunInvalid as error:
        hint = " pip install 'samestep[s3]' brings it." if "needs the package s3fs" in str(error) else ""
        return _check("storage", "mend", f"{error}{hint}")
    name = f"doctor-{uuid.uuid4().hex[:12]}"
    made = _missing_folders(pathlib.Path(place, name, "shards")) if urls.is_folder(place) else []
    try:
        Store(f"{place}/{name}", retry=retries.Policy(deadline_seconds=10.0)).check()
    except StorageError as error:
        return _check("storage", "mend", f"{error} {_how(place, error)}".rstrip())
    finally:
        for folder in made:
            if folder.is_dir():
                folder.rmdir()
    return _check("storage", "ok", f"{place} can be written, creates a file once, lists and deletes")


def _missing_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders that have to be made for this one, itself first."""
    return [one for one in (folder, *folder.parents) if not one.exists()]


def _how(url: str, error: StorageError) -> str:
    """Returns how to mend what a storage refused, where it can be told."""
    scheme, cause = urls.scheme_of(url), error.__cause__
    if isinstance(cause, FileNotFoundError):
        return ""  # the error says it
    if urls.is_folder(url):
        return "Give a folder that this user may write." if isinstance(cause, OSError) else ""
    if isinstance(cause, PermissionError) or retries.status_of(cause) in (401, 403) or "redentials" in str(error):
        if scheme in ("s3", "s3a"):
            return (
                "Give credentials that may read, write, list and delete there: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a "
                "profile (AWS_PROFILE) or the machine's role."
            )
        return (
            "Give credentials that may read, write, list and delete there: `gcloud auth application-default login`, "
            "GOOGLE_APPLICATION_CREDENTIALS, or the machine's identity, with the role Storage Object User on the bucket."
        )
    return "See that the machine reaches it (proxy, firewall, endpoint)."


def _token_file() -> Check:
    """Looks whether others on this machine can read this user's token, for then they are this user to Ray."""
    token, where = knock.token_here()
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return _check(
            "token", "warning", f"RAY_AUTH_MODE=disabled: clusters started here ask for no token. Unset it. {_NO_TOKEN}"
        )
    if token is None:
        return _check("token", "ok", f"none yet; the first cluster started here makes {where}")
    path = pathlib.Path(where)
    if (
        where != "RAY_AUTH_TOKEN"
        and path.stat().st_mode & 0o044
        and all(p.stat().st_mode & 0o011 for p in path.absolute().parents)
    ):
        return _check("token", "warning", f"{where} can be read by other users of this machine: chmod 600 {where}")
    return _check("token", "ok", f"in {where}")


def _cluster(given: str | None) -> Check:
    address = given or ray_cluster.found_address()
    if address is None:
        return _check("cluster", "ok", "none to join; a run starts its own on this machine, on loopback, with a token")
    if (shown := secrecy.redacted(address)) != address:
        return _check(
            "cluster", "mend", f"{shown} has a secret in it. Leave it out; Ray's token is given by RAY_AUTH_TOKEN_PATH."
        )
    stranger = knock.ask(address, None)
    if stranger == "does not answer":
        return _check(
            "cluster",
            "mend",
            f"{address} does not answer. See that it runs and can be reached from here, for example: "
            "kubectl -n samestep port-forward svc/samestep-head-svc 8265, then --address http://127.0.0.1:8265",
        )
    if stranger == "is no Ray head":
        return _check(
            "cluster", "mend", f"{address} answers, but is no Ray head. Give http://HEAD:8265, HEAD:6379 or ray://HEAD:10001."
        )
    if stranger == "lets in":
        return _check("cluster", "warning", f"{address} lets everybody in. {_NO_TOKEN}")
    return _with_token(address)


def _with_token(address: str) -> Check:
    """Shows a cluster that asks for a token the one that is here."""
    token, where = knock.token_here()
    if token is None:
        text = (
            f"{address} asks for a token, and there is none in {where}. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE."
        )
        return _check("cluster", "mend", text)
    if knock.ask(address, token) != "lets in":
        return _check(
            "cluster",
            "mend",
            f"{address} refuses the token in {where}. Get the cluster's own, and set RAY_AUTH_TOKEN_PATH=FILE.",
        )
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        text = f"{address} takes the token in {where}, but Ray shows it only where RAY_AUTH_MODE=token is set. Set it."
        return _check("cluster", "mend", text)
    return _check("cluster", "ok", f"{address} takes the token in {where}, and lets nobody in without one")


def is_well(found: list[dict[str, Any]]) -> bool:
    """Whether nothing is to be mended."""
    return all(check["state"] == "ok" for check in found)
