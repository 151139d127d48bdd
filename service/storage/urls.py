"""Which URLs and paths a run can live at, told without a network."""

import importlib.util
import os
import re

from fsspec.registry import available_protocols, known_implementations, registry

from service import secrecy
from service.errors import RunInvalid, StorageError, did_you_mean

# Schemes with a create that exactly one of many callers wins. Elsewhere fsspec asks
# whether the file exists and then writes it (fsspec 2026.9, spec.py:870), so that two
# drivers could both own a run.
CREATES_ONCE = ("file", "gcs", "gs", "local", "memory", "s3", "s3a")


def scheme_of(url: str) -> str:
    """Returns the URL's scheme; a plain path has the scheme "file"."""
    scheme, mark, _ = url.partition("://")
    return scheme if mark else "file"


def is_folder(url: str) -> bool:
    """Whether the URL is a folder of this machine's file system."""
    return scheme_of(url) in ("file", "local")


def folder_of(url: str) -> str:
    """Returns the absolute path of a folder that is given as a path or as file://..."""
    return os.path.abspath(os.path.expanduser(url.partition("://")[2] or url))


def normal(url: str) -> str:
    """Returns the URL without a trailing slash; a plain path becomes absolute."""
    if not isinstance(url, str) or not url:
        raise RunInvalid(f"storage={url!r}: expected a folder or a URL, such as runs or gs://bucket/runs.")
    secrecy.check_url(url)
    return folder_of(url) if is_folder(url) else url.rstrip("/")


def check_readable(url: str) -> None:
    """Raises RunInvalid where no installed package can open the URL."""
    scheme, known = scheme_of(url), {*available_protocols(), *registry}
    if "::" in url:
        raise RunInvalid(f'storage="{url}": a chain of file systems has no one place to commit to. Give the last one alone.')
    if scheme not in known:
        raise RunInvalid(f'storage="{url}": there is no storage "{scheme}://". {did_you_mean(scheme, known)}')
    if (prefix := url.partition(":")[0]) in known and "://" not in url and ":" in url:
        raise RunInvalid(f'storage="{url}" would be a folder of that name on this machine. Did you mean "{prefix}://..."?')
    entry = known_implementations.get(scheme, {})
    package = entry.get("class", "fsspec").partition(".")[0]
    if scheme not in registry and importlib.util.find_spec(package) is None:
        raise RunInvalid(f'storage="{url}" needs the package {package} on every machine. {entry.get("err", "")}'.rstrip())


def check_url(url: str) -> str:
    """Returns the URL in its normal form, if a run can be kept there.

    Neither opens a connection nor imports the storage's package.

    Raises:
        RunInvalid: naming the scheme and what to write or install instead.
    """
    shown = normal(url)
    check_readable(url)
    if (scheme := scheme_of(url)) not in CREATES_ONCE:
        raise RunInvalid(
            f'storage="{url}": {scheme}:// cannot create a file that exactly one of many writers wins, '
            f"which a run's commit log relies on. Use a folder, or one of {', '.join(CREATES_ONCE)}."
        )
    if scheme not in ("file", "local", "memory") and not url.partition("://")[2].strip("/"):
        raise RunInvalid(f'storage="{url}" names no bucket. Expected {scheme}://bucket/folder.')
    return shown


def check_path(path: str) -> str:
    """Returns the path, if it is a relative one that stays inside the store."""
    if not isinstance(path, str) or not path or "\0" in path or "\\" in path:
        raise StorageError(f"{path!r} is no path inside a store: expected names joined by slashes.")
    if any(part in ("", ".", "..") for part in path.split("/")) or re.match(r"\w+:", path):
        raise StorageError(f'{path!r} is no path inside a store: it is absolute, or has an empty name, "." or "..".')
    return path
