"""A job module run as a command, which starts the embedded Ray itself: what its terminal shows, and nothing else."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import service

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

NUMBER = r"\d+(?:\.\d+)?"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x08")  # colours, movements of the cursor, backspaces


def command(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Returns two epochs of the digits' autoencoder as a command, and a plain shell's environment."""
    words = ["--workers", "2", "--storage", "runs", "--name", "vae", "--epochs", "2"]
    words += ["--seed", "5", "--hidden", "16", "--latent", "2"]
    ours = ("RAY_", "TF_", "KERAS_", "CUDA_", "GCSFS_", "PYTEST_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    variables |= {"PYTHONPATH": str(Path(service.__file__).parents[1]), "TERM": "xterm", "COLUMNS": "100"}
    return [sys.executable, "-m", "jobs.digits_vae", *words], variables


def without_greeting(text: str) -> str:
    """Returns the text without what TensorFlow says, whatever it is told, when it starts on a CPU for which oneDNN is on."""
    return re.sub(
        r"(?m)^(WARNING: All log messages before absl::Init|I0000 .*oneDNN custom operations are on).*\r?\n", "", text
    )


def summary(folder: Path) -> list[str]:
    """Returns the patterns of the closing lines."""
    url = re.escape(f"{folder.resolve()}/runs/vae")
    return [rf"loss {NUMBER}  val_loss {NUMBER}", url, rf"tensorboard --logdir {url}/logs"]


def assert_lines(lines: list[str], patterns: list[str]) -> None:
    """Holds each line to its pattern; there is no other line."""
    text = "\n".join(lines)
    assert len(lines) == len(patterns), text
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r} in:\n{text}"


@pytest.mark.soak
def test_without_a_terminal_there_is_one_line_an_epoch_and_the_summary(tmp_path):
    words, variables = command(tmp_path)
    done = subprocess.run(words, cwd=tmp_path, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, without_greeting(done.stderr)) == (0, "")
    epochs = [rf"epoch {epoch}/2  {NUMBER} s  loss {NUMBER}  val_loss {NUMBER}" for epoch in (1, 2)]
    assert_lines(done.stdout.splitlines(), [*epochs, *summary(tmp_path)])


def on_a_terminal(words: list[str], folder: Path, variables: dict[str, str]) -> tuple[int, str]:
    """Runs a command on a pseudo-terminal of its own; returns its exit code and all that appeared there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words, cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # how Linux says that nobody has the terminal open any more
        pass
    finally:
        os.close(ours)
    return process.wait(timeout=120), without_greeting(shown.decode())


def test_on_a_terminal_there_is_keras_progress_bar_and_the_summary(tmp_path):
    words, variables = command(tmp_path)
    code, shown = on_a_terminal(words, tmp_path, variables)
    assert code == 0, shown
    states = [re.split(r"\r|\n", CONTROL.sub("", line))[-1].strip() for line in shown.split("\r\n")]
    # 1617 rows to train on are 13 batches of 128. What the bar showed in between was overwritten.
    bar = rf"13/13 ━+ \S+ \S+/step - loss: {NUMBER} - val_loss: {NUMBER}"
    assert_lines(states, ["Epoch 1/2", bar, "Epoch 2/2", bar, *summary(tmp_path), ""])
    # The bar grew: the first batches were shown before the last.
    overwritten = {int(done) for done in re.findall(r"(\d+)/13", CONTROL.sub("", shown))}
    assert {1, 13} <= overwritten
    # All that appeared in between is the bar too.
    for piece in re.split(r"[\r\n]+", CONTROL.sub("", shown)):
        bar_or_rest = rf"\s*\d+/13 ━+ .*- loss: {NUMBER}( - val_loss: {NUMBER})?\s*"
        assert re.fullmatch("|".join([bar_or_rest, r"Epoch [12]/2", *summary(tmp_path), r"\s*"]), piece), repr(piece)
