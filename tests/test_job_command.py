"""The run's and the job's options on the command line; a fake train shows what they become."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from service.errors import JobFailed, RunInvalid
from service.job_command import command
from service.run import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """What the job can be told.

    Attributes:
        epochs: the last epoch, of
            as many as it takes.
        batch_size: rows in one step.
        rate: 5% of it is decay.
        loss: where the loss is written.
        shuffle: whether rows change places.
        limit: the most rows, None for all.
        note: any text.

    Raises:
        ValueError: this section is no option.
    """

    epochs: int = 30
    batch_size: int = 128
    rate: float = 0.1
    loss: Literal["layer", "function"] = "layer"
    shuffle: bool = True
    limit: int | None = None
    note: str | None = None


def job(worker: Any) -> None:
    """Never called: train is faked."""


class Trained:
    """A train function that keeps what it is given, and fails where it is told to."""

    def __init__(self, error: BaseException | None = None, url: str = "runs/vae-1") -> None:
        self.error = error
        self.result = SimpleNamespace(metrics={"loss": 24.753219, "val_loss": 0.00012345678}, url=url)
        self.job: Any = None
        self.run: Any = None
        self.options: dict[str, Any] = {}

    def __call__(self, job: Any, run: Run, **options: Any) -> SimpleNamespace:
        self.job, self.run, self.options = job, run, options
        if self.error:
            raise self.error
        return self.result


def run_command(*words: str, options: type = Options, train: Trained | None = None) -> tuple[int, Trained]:
    train = train or Trained()
    return command(job, options, name="digits", argv=words, train=train), train


def test_without_options_the_run_and_the_job_have_their_defaults():
    code, trained = run_command()
    assert code == 0
    assert trained.job is job
    assert trained.run == Run(name="digits")
    assert trained.options == dataclasses.asdict(Options())


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("--name vae-1", "name", "vae-1"),
        ("--storage gs://bucket/runs", "storage", "gs://bucket/runs"),
        ("--workers 2", "workers", 2),
        ("--workers 0", "workers", 0),
        ("--workers 1-4", "workers", (1, 4)),
        ("--accelerator gpu", "accelerator", "gpu"),
        ("--topology 2x4 --accelerator tpu --devices-per-worker 8", "topology", "2x4"),
        ("--topology none", "topology", None),
        ("--seed 7", "seed", 7),
        ("--save-every-seconds 2.5", "save_every_seconds", 2.5),
        ("--save-every-epochs none", "save_every_epochs", None),
        ("--stall-seconds=30", "stall_seconds", 30.0),
        ("--rollbacks 3", "rollbacks", 3),
        ("--spike 20", "spike", 20.0),
        ("--spike none", "spike", None),
        ("--no-deterministic", "deterministic", False),
        ("--deterministic", "deterministic", True),
    ],
)
def test_an_option_of_the_run_arrives_typed(words: str, field: str, value: Any):
    code, trained = run_command(*words.split())
    assert code == 0
    given = getattr(trained.run, field)
    assert (given, type(given)) == (value, type(value))


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("--epochs 5", "epochs", 5),
        ("--batch-size=256", "batch_size", 256),
        ("--rate 1e-3", "rate", 0.001),
        ("--rate -1", "rate", -1.0),
        ("--loss function", "loss", "function"),
        ("--no-shuffle", "shuffle", False),
        ("--limit 10", "limit", 10),
        ("--limit none", "limit", None),
        ("--note text", "note", "text"),
        ("--note none", "note", None),
    ],
)
def test_an_option_of_the_job_arrives_typed(words: str, field: str, value: Any):
    code, trained = run_command(*words.split())
    assert code == 0
    assert trained.options == {**dataclasses.asdict(Options()), field: value}
    assert type(trained.options[field]) is type(value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--epoch 5", 'there is no option "--epoch". Did you mean "--epochs"?'),
        ("--batch_size=64", 'there is no option "--batch_size". Did you mean "--batch-size"?'),
        ("--worker 2", 'there is no option "--worker". Did you mean "--workers"?'),
        ("--no-determinism", 'there is no option "--no-determinism". Did you mean "--no-deterministic"?'),
        ("epochs=5", 'there is no option "epochs". Did you mean "--epochs"?'),
        ("--epochs ten", 'argument --epochs: expected a whole number, given "ten".'),
        ("--rate fast", 'argument --rate: expected a number, given "fast".'),
        ("--loss functon", 'argument --loss: expected layer or function, given "functon".'),
        ("--accelerator cuda", 'argument --accelerator: expected cpu or gpu or tpu, given "cuda".'),
        ("--limit few", 'argument --limit: expected a whole number or none, given "few".'),
        ("--workers many", 'argument --workers: expected a whole number or a range such as 1-4, given "many".'),
        ("--epochs", "argument --epochs: expected one argument"),
        ("--workers 4-1", "Run(workers=(4, 1)): expected how many worker processes there are"),
        ("--name a/b", "Run(name='a/b'): expected letters"),
        ("--keep 0", "Run(keep=0): expected a whole number, 1 or more."),
    ],
)
def test_a_wrong_word_ends_with_what_was_meant_before_anything_starts(words: str, message: str, capsys: Any):
    code, trained = run_command(*words.split())
    out, err = capsys.readouterr()
    assert code == 2
    assert trained.run is None
    assert out == ""
    assert err.startswith(f"python -m {__name__}: {message}")
    assert err.endswith(f"\nAll options: python -m {__name__} --help\n")


def test_a_value_that_the_job_refuses_is_a_wrong_value(capsys: Any):
    @dataclasses.dataclass(frozen=True)
    class Careful:
        kept: float = 0.5

        def __post_init__(self) -> None:
            if self.kept > 1:
                raise ValueError(f"kept={self.kept}: expected at most 1.")

    assert run_command("--kept", "3", options=Careful)[0] == 2
    assert "kept=3.0: expected at most 1." in capsys.readouterr().err


def test_a_field_without_a_default_must_be_given(capsys: Any):
    @dataclasses.dataclass(frozen=True)
    class Demanding:
        data: str

    assert run_command(options=Demanding)[0] == 2
    assert "required: --data" in capsys.readouterr().err
    assert run_command("--data", "here", options=Demanding)[1].options == {"data": "here"}


def test_help_explains_every_option_and_its_default(capsys: Any):
    code, trained = run_command("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert trained.run is None
    assert __doc__ is not None and __doc__ in text
    for told in [
        "--name TEXT the run's folder under `storage`. The same name again continues the run. (default: digits)",
        "(`runs`, `gs://bucket/runs`). (default: runs)",
        "--workers N|MIN-MAX the number of workers;",
        "--accelerator cpu|gpu|tpu",
        "--seed N|none of weights, data order and noise; None draws one and records it. (default: none)",
        "--deterministic, --no-deterministic ask TensorFlow for the same bits from the same run. (default: --deterministic)",
        "--epochs N the last epoch, of as many as it takes. (default: 30)",
        "--rate X 5% of it is decay. (default: 0.1)",
        "--loss layer|function where the loss is written. (default: layer)",
        "--note TEXT|none any text. (default: none)",
    ]:
        assert told in text
    assert "this section is no option" not in text


def test_every_field_of_a_run_has_a_line_of_help(capsys: Any):
    run_command("--help")
    text = capsys.readouterr().out
    for field in dataclasses.fields(Run):
        option = text.partition(f"--{field.name.replace('_', '-')}")[2].partition("(default:")[0]
        assert len(option.split()) > 3, field.name


def test_the_end_names_the_metrics_the_folder_and_tensorboard(capsys: Any):
    run_command()
    assert capsys.readouterr().out == ("loss 24.753  val_loss 0.00012346\nruns/vae-1\ntensorboard --logdir runs/vae-1/logs\n")


def test_a_folder_with_a_space_is_quoted_for_the_shell(capsys: Any):
    run_command(train=Trained(url="my runs/vae"))
    assert capsys.readouterr().out.endswith("\nmy runs/vae\ntensorboard --logdir 'my runs/vae/logs'\n")


def test_a_run_that_fails_prints_its_message_alone(capsys: Any):
    assert run_command(train=Trained(JobFailed("worker 1 raised\n  KeyError: 'x'")))[0] == 1
    assert capsys.readouterr() == ("", "worker 1 raised\n  KeyError: 'x'\n")


def test_an_interrupted_run_says_how_to_continue(capsys: Any):
    assert run_command(train=Trained(KeyboardInterrupt()))[0] == 130
    assert 'The same command continues run "digits"' in capsys.readouterr().err


def test_an_error_nobody_foresaw_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(train=Trained(ZeroDivisionError()))


@pytest.mark.parametrize("field", ["seed", "storage", "help"])
def test_a_job_cannot_take_an_option_of_the_run(field: str):
    with pytest.raises(RunInvalid, match=f"Own.{field}: --{field} is taken already"):
        run_command(options=dataclasses.make_dataclass("Own", [(field, int, 1)], frozen=True))


@pytest.mark.parametrize(("hint", "text"), [(list[int], r"list\[int\]"), (bool | None, r"bool \| None")])
def test_a_field_that_no_word_can_give_is_named(hint: Any, text: str):
    with pytest.raises(RunInvalid, match=rf"Own.layers: {text} cannot be read; use bool, or int"):
        run_command(options=dataclasses.make_dataclass("Own", [("layers", hint)], frozen=True))


def test_the_command_loads_no_framework_before_the_options_are_right():
    program = """
import dataclasses, sys
from service.job_command import command

@dataclasses.dataclass(frozen=True)
class Options:
    epochs: int = 1

def job(worker): ...

code = command(job, Options, name="x", argv=["--epoch", "1"])
print(code, sorted({"keras", "ray", "tensorflow", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"


def test_a_dry_run_says_what_the_options_mean_and_trains_nothing(capsys: pytest.CaptureFixture[str]):
    code, trained = run_command("--dry-run", "--workers", "2-4", "--name", "vae-1", "--rate", "0.5")
    assert (code, trained.job) == (0, None)
    told = json.loads(capsys.readouterr().out)
    assert Run(**told["run"]) == Run(name="vae-1", workers=(2, 4))
    assert told["options"] == {**dataclasses.asdict(Options()), "rate": 0.5}


def test_a_dry_run_refuses_what_a_run_would(capsys: pytest.CaptureFixture[str]):
    code, _ = run_command("--dry-run", "--epoch", "5")
    assert code == 2 and 'there is no option "--epoch"' in capsys.readouterr().err
