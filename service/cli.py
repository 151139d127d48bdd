"""The command line.

    python -m service runs gs://bucket/runs
    python -m service show gs://bucket/runs/vae-1 --json
    python -m service verify runs/vae-1
    python -m service logs runs/vae-1 --worker 1 --follow
    python -m service doctor --storage gs://bucket/runs --address http://127.0.0.1:8265
    python -m service manifest jobs.digits_vae --overlay gpu --workers 8 --name vae-1 | kubectl apply -f -

What is read is only the run's storage: neither TensorFlow, Keras nor Ray is imported,
so that a laptop can look into the run of a cluster. (manifest asks the job's own command what its options mean, and doctor
asks TensorFlow for its devices, each in a process of its own.)
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from service import secrecy
from service.errors import RunInvalid, ServiceError, did_you_mean


class _Command(NamedTuple):
    """One subcommand.

    Attributes:
        word: what its one argument stands for; empty where it takes none.
        expected: what to write for it.
        does: the line of the help.
        run: carries it out, by the options and a clock, and returns the exit code.
        options: what may be given besides, with argparse's own arguments.
        rest: what the words behind a -- are; None where there are none to give.
    """

    word: str
    expected: str
    does: str
    run: Callable[[str, argparse.Namespace, Callable[[], float]], int]
    options: dict[str, dict[str, Any]]
    rest: str | None = None


def main(argv: Sequence[str] | None = None, clock: Callable[[], float] = time.time) -> int:
    """Does what the words say, and prints it.

    Args:
        argv: the words after the command; None takes this process's.
        clock: seconds since 1970, for the ages that are shown.

    Returns:
        The exit code: 0, 1 for a problem, 2 for a wrong word, 130 for Ctrl-C.
    """
    words = sys.argv[1:] if argv is None else [*argv]
    try:
        name, url, options = _parse(words)
    except SystemExit as stop:  # what is wrong, or the help, is printed
        return int(stop.code or 0)
    try:
        code = _COMMANDS[name].run(url, options, clock)
        sys.stdout.flush()
        return code
    except ServiceError as error:
        print(f"{_program()} {name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, RunInvalid) else 1
    except BrokenPipeError:
        # The reader, such as head, has had enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _runs(url: str, options: argparse.Namespace, clock: Callable[[], float]) -> int:
    from service import cli_runs, cli_text

    found = cli_runs.summaries(cli_runs.connect(url), clock())
    _print_json(found) if options.json else print(cli_text.runs(found, url))
    return 0


def _show(url: str, options: argparse.Namespace, clock: Callable[[], float]) -> int:
    from service import cli_runs, cli_text

    about = cli_runs.about(cli_runs.run_at(url), clock())
    _print_json(about) if options.json else print(cli_text.run(about))
    return 0


def _verify(url: str, options: argparse.Namespace, clock: Callable[[], float]) -> int:
    from service import cli_runs, cli_text, cli_verify

    store, checks = cli_runs.run_at(url), []
    for check in cli_verify.checks(store):
        checks.append(check)
        if not options.json:
            print(cli_text.check(check), flush=True)  # each as it is known: a large run takes long
    is_whole = not any(check["problems"] for check in checks)
    _print_json({"url": store.url, "whole": is_whole, "checks": checks}) if options.json else print(cli_text.verdict(checks))
    return 0 if is_whole else 1


def _logs(url: str, options: argparse.Namespace, clock: Callable[[], float]) -> int:
    from service import cli_logs, cli_runs

    for text in cli_logs.lines(cli_runs.run_at(url), options.worker, options.follow):
        print(text, end="", flush=True)
    return 0


def _manifest(job: str, options: argparse.Namespace, clock: Callable[[], float]) -> int:
    from service import manifest

    given = {name: value for name, value in vars(options).items() if name not in ("words", "rest")}
    text = manifest.manifest(manifest.Request(job, **given, options=options.rest), clock())
    if manifest.is_unset(text) and options.overlay != "local":
        print(
            "Warning: k8s/settings.env holds placeholders. Write it with terraform output -raw k8s_settings.", file=sys.stderr
        )
    print(text, end="")
    return 0


def _doctor(_: str, options: argparse.Namespace, clock: Callable[[], float]) -> int:
    from service import cli_doctor, cli_text

    found = []
    for check in cli_doctor.checks(options.storage, options.address, not options.no_devices):
        found.append(check)
        if not options.json:
            print(cli_text.looked_at(check), flush=True)  # each as it is known: some take seconds
    if options.json:
        _print_json({"well": cli_doctor.is_well(found), "checks": found})
    return 0 if cli_doctor.is_well(found) else 1


_A_RUN = "a run's folder, such as runs/vae-1 or gs://bucket/runs/vae-1"
_JSON: dict[str, dict[str, Any]] = {"--json": {"action": "store_true", "help": "print JSON for other programs"}}
_COMMANDS = {
    "runs": _Command(
        "URL", "a storage, such as runs or gs://bucket/runs", "the runs under a storage's URL, one line each", _runs, _JSON
    ),
    "show": _Command("RUN", _A_RUN, "one run: its record, attempts, checkpoints, stages and result", _show, _JSON),
    "verify": _Command(
        "RUN", _A_RUN, "reads every byte of a run back; exits with 1 if anything is wrong with it", _verify, _JSON
    ),
    "logs": _Command(
        "RUN",
        _A_RUN,
        "what a run's workers printed, in every attempt",
        _logs,
        {
            "--worker": {"type": int, "metavar": "N", "help": "of worker N alone"},
            "--follow": {"action": "store_true", "help": "go on with what is printed from now on, until Ctrl-C"},
        },
    ),
    "doctor": _Command(
        "",
        "",
        "what is installed, and whether storage and cluster are as they must be; exits with 1 if not",
        _doctor,
        {
            "--storage": {"metavar": "URL", "help": "writes, lists and deletes a file there"},
            "--address": {
                "metavar": "URL",
                "help": "the cluster's, such as http://127.0.0.1:8265 (default: the one a run joins)",
            },
            "--no-devices": {"action": "store_true", "help": "do not start TensorFlow to see its devices"},
            **_JSON,
        },
    ),
    "manifest": _Command(
        "JOB",
        "a job's module, such as jobs.digits_vae",
        "a run's Kubernetes manifest, for kubectl apply -f -",
        _manifest,
        {
            "--overlay": {"required": True, "metavar": "NAME", "help": "where it runs: a folder of k8s/runs"},
            "--name": {"required": True, "metavar": "NAME", "help": "the run's name; the same name again continues it"},
            "--workers": {"default": "1", "metavar": "N", "help": "how many worker processes (default: 1)"},
            "--storage": {"metavar": "URL", "help": "where runs are kept (default: the overlay's)"},
            "--env": {"action": "append", "default": [], "metavar": "NAME=VALUE", "help": "for the job; no secrets"},
            "--secret-env": {"action": "append", "default": [], "metavar": "NAME=SECRET:KEY", "help": "from a Secret"},
        },
        "the job's own options",
    ),
}


class _Parser(argparse.ArgumentParser):
    """argparse whose refusals all end with where to read more."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nHelp: {self.prog} --help\n")


def _parse(words: list[str]) -> tuple[str, str, argparse.Namespace]:
    """Returns the subcommand, its URL and its options; exits where a word is wrong."""
    commands = "\n".join(f"  {name:10}{command.word:5}{command.does}" for name, command in _COMMANDS.items())
    usage = f"{_program()} {{{','.join(_COMMANDS)}}} ..."
    top = _Parser(
        prog=_program(),
        usage=usage,
        description=f"Looks into the runs of SameStep.\n\n{commands}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if not words or words[0] in ("-h", "--help"):
        top.print_help(sys.stdout if words else sys.stderr)
        top.exit(0 if words else 2)
    name, *rest = words
    if name.startswith("-"):
        top.error(f'"{name}" stands before the command. Write the command first: {", ".join(_COMMANDS)}.')
    if name not in _COMMANDS:
        top.error(f'there is no command "{name}". {did_you_mean(name, _COMMANDS)}')
    return name, *_parse_rest(name, rest)


def _parse_rest(name: str, words: list[str]) -> tuple[str, argparse.Namespace]:
    command = _COMMANDS[name]
    parser = _Parser(prog=f"{_program()} {name}", description=f"{name}: {command.does}.", allow_abbrev=False)
    shown = (f"[{option}{' ' + how['metavar'] if 'metavar' in how else ''}]" for option, how in command.options.items())
    parser.usage = " ".join(filter(None, ["%(prog)s", command.word, *shown])) + (" [-- OPTIONS]" if command.rest else "")
    parser.epilog = f"Behind --: {command.rest}." if command.rest else None
    at = words.index("--") if command.rest and "--" in words else len(words)
    words, rest = words[:at], words[at + 1 :]
    # Any number is taken here, so that the message below can say what was given.
    parser.add_argument("words", nargs="*", metavar=command.word, help=command.expected or argparse.SUPPRESS)
    for option, how in command.options.items():
        parser.add_argument(option, **how)
    parsed, unknown = parser.parse_known_args(words)
    for word in unknown:
        if word.startswith("-"):
            option = word.partition("=")[0]
            parser.error(f'there is no option "{option}". {did_you_mean(option, parser._option_string_actions)}')
    given = [*parsed.words, *unknown]
    if not command.word and given:
        parser.error(f"expected options only; given {' '.join(secrecy.redacted_words(given))}.")
    if command.word and len(given) != 1:
        what = f"given {' '.join(secrecy.redacted_words(given))}" if given else "none was given"
        parser.error(f"expected one {command.word}, {command.expected}; {what}.")
    parsed.rest = rest
    return "".join(given), parsed


def _program() -> str:
    """Returns how this command was called."""
    return "samestep" if os.path.basename(sys.argv[0]).startswith("samestep") else "python -m service"


def _print_json(value: Any) -> None:
    print(json.dumps(_strict(value), indent=1, allow_nan=False))


def _strict(value: Any) -> Any:
    """Returns a value that strict JSON can hold; a number that is none becomes text, as in protobuf's JSON."""
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
