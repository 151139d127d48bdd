"""What looks like a secret, so that it is refused or blotted out before anything records it."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from service.errors import OptionUnknown, RunInvalid

HIDDEN = "***"

_VARIABLE = re.compile(
    r"(^|_)(TOKENS?|SECRETS?|PASSWORD|PASSWD|CREDENTIALS?|PRIVATE_?KEY|(API|ACCESS|AUTH)_?KEYS?)(_|$)", re.IGNORECASE
)
# A name that ends so holds the secret itself; password_file and token_count do not.
_KEY = r"(?:api|access|account|auth|encryption|private|secret|signing)[_-]?key"
_NAME = re.compile(rf"(?:^|[_-])(?:secret|passw(?:or)?d|passphrase|credentials?|authorization|{_KEY})$", re.IGNORECASE)
_TOKEN_NAME = re.compile(r"(?:^|[_-])token$", re.IGNORECASE)
_TOKEN = re.compile(r"[\w.~+/=:-]{16,}")  # long enough to be one; a pad_token="<pad>" is not

# Each pattern's first group is what stays in a text, up to the secret.
_FORMS = (
    re.compile(r"(\b[\w+.-]+://[^\s/@:]*:)[^\s/@]+(?=@)"),  # scheme://user:password@
    re.compile(r"(\b[\w+.-]+://)[\w.~+=-]{16,}(?=@)"),  # scheme://token@
    re.compile(r"([?&][\w.-]*(?:sig|signature|token|secret|passw(?:or)?d|key|credential)=)[^\s&#'\"]{8,}", re.IGNORECASE),
    re.compile(r"(\b(?:Bearer|Basic) )[\w.~+/=-]{16,}"),
    re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).+?(?=-----END|\Z)", re.DOTALL),
    re.compile(r"(\b(?:gh[pousr]_|github_pat_|glpat-|hf_|xox[abprs]-|ya29\.))[\w.-]{16,}"),  # who made the token
)
_IS_A_FILE = re.compile(r"_(PATH|FILE|DIR)$|^GOOGLE_APPLICATION_CREDENTIALS$")
_LEAST_CHARACTERS = 8  # a shorter value of a variable, such as "true", would be blotted out of any text


def looks_secret(variable: str) -> bool:
    """Whether an environment variable's name says that its value is a secret."""
    return _VARIABLE.search(variable) is not None


def found_in(name: str, value: Any, where: str = "") -> Iterator[str]:
    """Yields the place of each text in a plain value that is a secret, by its name or by its form."""
    where = where or name
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from found_in(str(key), item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from found_in(name, item, f"{where}[{i}]")
    elif isinstance(value, str) and value:
        is_token = _TOKEN_NAME.search(name) is not None and _TOKEN.fullmatch(value) is not None
        if is_token or _NAME.search(name) or redacted(value) != value:
            yield where


def check_options(options: Mapping[str, Any]) -> None:
    """Refuses a job's option that is a secret, for options are recorded and shown.

    Raises:
        OptionUnknown: naming the option, never its value, and the way to pass it instead.
    """
    for name, value in options.items():
        for where in found_in(name, value):
            variable = re.sub(r"\W", "_", name).upper()
            raise OptionUnknown(
                f"The job's option {where} looks like a secret. Options stand in run.json, in the events and in the list of "
                f"processes. Give it as an environment variable, read in the job (os.environ[{variable!r}]), or by a file's "
                f"name; on Kubernetes: --secret-env {variable}=SECRET:KEY."
            )


def check_url(url: str) -> None:
    """Refuses a storage's URL with a password, a token or a signature in it.

    Raises:
        RunInvalid: with the secret blotted out.
    """
    if redacted(url) != url:
        raise RunInvalid(
            f'storage="{redacted(url)}" has a secret in it, and a URL is recorded and shown. Leave it out: storage is opened '
            "with the machine's own credentials (Workload Identity, GOOGLE_APPLICATION_CREDENTIALS, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or a credentials file)."
        )


def redacted(text: str, known: Iterable[str] = ()) -> str:
    """Returns a text with what has a secret's form, and each of the known secrets, blotted out."""
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for form in _FORMS:
        text = form.sub(rf"\g<1>{HIDDEN}", text)
    return text


def redacted_words(words: Sequence[str]) -> list[str]:
    """Returns a command's words with the values of options that are secrets blotted out."""
    shown, follows = [], ""
    for word in words:
        name, mark, value = word.lstrip("-").partition("=")
        if mark and any(found_in(name, value)):
            shown.append(word.removesuffix(value) + HIDDEN)
        else:
            shown.append(HIDDEN if any(found_in(follows, word)) else redacted(word))
        follows = name if word.startswith("-") and not mark else ""
    return shown


def known_in(options: Mapping[str, Any]) -> set[str]:
    """Returns the secrets that stand in a mapping, such as os.environ or a storage's options, by their names."""
    found = set()
    for name, value in options.items():
        if isinstance(value, Mapping):
            found |= known_in(value)
        elif isinstance(value, str) and len(value) >= _LEAST_CHARACTERS and (looks_secret(name) or any(found_in(name, value))):
            found.add(value)
    return found


def of_environment() -> set[str]:
    """Returns the values of this process's environment variables whose names say that they are secrets, not files of such."""
    return known_in({name: value for name, value in os.environ.items() if not _IS_A_FILE.search(name)})
