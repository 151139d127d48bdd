"""A job module as a command: typed options for the run and for the job.

    if __name__ == "__main__":
        sys.exit(service.command(train, Options, name="digits-vae"))

The options are the fields of `Run` and of the job's own frozen dataclass, so that a
field, its type, its default and its line under "Attributes:" are written once.
"""

import argparse
import dataclasses
import inspect
import json
import re
import shlex
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, NoReturn, Union

from service import secrecy
from service.errors import RunInterrupted, RunInvalid, ServiceError, did_you_mean
from service.run import Run


def command(
    job: Callable[..., Any],
    options: type,
    *,
    name: str,
    argv: Sequence[str] | None = None,
    train: Callable[..., Any] | None = None,
) -> int:
    """Trains `job` as the command line says, and prints where the result is.

    Args:
        job: the function that every worker calls.
        options: the job's options, a frozen dataclass of bool, int, float, str and
            Literal fields, all but bool perhaps `| None`.
        name: the run's name where --name gives none.
        argv: the words after the command; None takes this process's.
        train: what runs the job; None takes `service.train`.

    Returns:
        The exit code: 0, 1 for a run that failed, 2 for a wrong option, 130 for one that was stopped.
    """
    try:
        run, chosen, is_dry = _parse(job, options, name, argv)
    except SystemExit as stop:  # argparse has printed the reason, or the help
        return int(stop.code or 0)
    if is_dry:
        print(json.dumps({"run": run.to_dict(), "options": dataclasses.asdict(chosen)}))
        return 0
    try:
        if train is None:
            from service import trainer  # loads Ray, which --help and a wrong option need not wait for

            train = trainer.train
        result = train(job, run, **dataclasses.asdict(chosen))
    except RunInterrupted as error:
        print(error, file=sys.stderr)
        return 130
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'Interrupted. The same command continues run "{run.name}" from its last checkpoint.', file=sys.stderr)
        return 130
    print(_summary(result.metrics, result.url))
    return 0


def _parse(job: Callable[..., Any], options: type, name: str, argv: Sequence[str] | None) -> tuple[Run, Any, bool]:
    module = sys.modules[job.__module__]
    parser = _Parser(
        prog=f"python -m {module.__spec__.name}" if module.__spec__ else f"python {sys.argv[0]}",
        usage="%(prog)s [options]",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_fields("run", Run, name=name)
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="begin a new run: where the name is taken, under the next free one of NAME-2, NAME-3, ...",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what the options mean, as JSON, and train nothing")
    parser.add_fields("job", options)
    values = parser.read(argv)
    try:
        if values["fresh"]:
            from service import record

            values["name"] = record.free_name(values["storage"], values["name"])
        chosen = _construct(options, values)
        secrecy.check_options(dataclasses.asdict(chosen))
        return _construct(Run, values), chosen, values["dry_run"]
    except ValueError as error:
        parser.error(str(error))


def _construct(cls: type, values: dict[str, Any]) -> Any:
    return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


def _summary(metrics: dict[str, float], url: str) -> str:
    line = "  ".join(f"{name} {value:.5g}" for name, value in metrics.items())
    return f"{line}\n{url}\ntensorboard --logdir {shlex.quote(f'{url}/logs')}"


class _Parser(argparse.ArgumentParser):
    """argparse over dataclasses; what it refuses, it refuses with a correction."""

    def add_fields(self, title: str, cls: type, **defaults: Any) -> None:
        """Adds an option for each field of a dataclass, in a group of the help."""
        group = self.add_argument_group(title)
        hints, texts = typing.get_type_hints(cls), _attributes(cls)
        for field in dataclasses.fields(cls):
            default = defaults.get(field.name, field.default)
            required = default is dataclasses.MISSING
            settings = _settings(f"{cls.__name__}.{field.name}", hints[field.name])
            if not required:
                secrecy.check_options({field.name: default})  # the help would show it
                settings["default"] = default
            try:
                action = group.add_argument(_flag(field.name), required=required, **settings)
            except argparse.ArgumentError as error:  # two options of one name
                raise RunInvalid(
                    f"{cls.__name__}.{field.name}: {_flag(field.name)} is taken already by --help or by Run. "
                    "Rename the job's option; what is the run's, the job reads as worker.run."
                ) from error
            shown = "required" if required else f"default: {_text(field.name, default)}"
            # Set afterwards, for some Pythons let BooleanOptionalAction add a default of its own.
            action.help = f"{texts.get(field.name, '')} ({shown})".strip().replace("%", "%%")

    def read(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """Returns every option's value by its field's name; exits where one is wrong."""
        namespace, unknown = self.parse_known_args(argv)
        if unknown:
            word = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
            self.error(f'there is no option "{word}". {did_you_mean(word, self._option_string_actions)}')
        return vars(namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nAll options: {self.prog} --help\n")


class _Form(NamedTuple):
    """One of the forms that an option's value may have.

    Attributes:
        metavar: what stands for the value in the help.
        expected: what to write instead of a value that has no such form.
        read: from the word given to the value; raises ValueError or KeyError.
    """

    metavar: str
    expected: str
    read: Callable[[str], Any]


def _range(text: str) -> tuple[int, int]:
    if match := re.fullmatch(r"(\d+)-(\d+)", text):
        return int(match[1]), int(match[2])
    raise ValueError(text)


_FORMS = {
    int: _Form("N", "a whole number", int),
    float: _Form("X", "a number", float),
    tuple[int, int]: _Form("MIN-MAX", "a range such as 1-4", _range),
    str: _Form("TEXT", "text", str),
}


def _forms(hint: Any) -> list[_Form]:
    """Returns the forms of a type; KeyError where a part of it has none."""
    if hint is types.NoneType:
        return [_Form("none", "none", {"none": None}.__getitem__)]
    if typing.get_origin(hint) is Literal:
        return [_Form(str(choice), str(choice), {str(choice): choice}.__getitem__) for choice in typing.get_args(hint)]
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [form for part in typing.get_args(hint) for form in _forms(part)]
    return [_FORMS[hint]]


def _settings(field: str, hint: Any) -> dict[str, Any]:
    """Returns argparse's arguments for one field's type."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    try:
        forms = _forms(hint)
    except KeyError as error:
        raise RunInvalid(f"{field}: {hint} cannot be read; use bool, or int, float, str or Literal, perhaps | None.") from error

    def read(word: str) -> Any:
        # Text takes any word, so it is tried last: in `str | None`, none is None.
        for form in sorted(forms, key=lambda form: form.read is str):
            try:
                return form.read(word)
            except (ValueError, KeyError):
                continue
        raise argparse.ArgumentTypeError(f'expected {" or ".join(form.expected for form in forms)}, given "{word}".')

    return {"type": read, "metavar": "|".join(form.metavar for form in forms)}


def _attributes(cls: type) -> dict[str, str]:
    """Returns what the docstring's "Attributes:" section says of each field."""
    section = (inspect.getdoc(cls) or "").partition("\nAttributes:\n")[2]
    section = re.split(r"\n\S", section)[0]  # up to the next section
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _text(field: str, value: Any) -> str:
    """Returns a value as one would give it on the command line."""
    if isinstance(value, bool):
        return _flag(field if value else f"no_{field}")
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return "none" if value is None else str(value)
