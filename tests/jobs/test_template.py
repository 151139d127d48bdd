"""The template is complete as it stands: copied, it is a command that trains."""

import pathlib
import shutil
import subprocess
import sys

import service
from jobs import template


def test_a_copy_is_a_command_that_tells_the_wines_apart(tmp_path):
    shutil.copy(str(template.__file__), tmp_path / "mine.py")
    done = subprocess.run(
        [sys.executable, "-m", "mine", "--workers", "0", "--name", "mine-1", "--seed", "5"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    metrics, url, _ = done.stdout.splitlines()[-3:]
    assert pathlib.Path(url) == tmp_path / "runs" / "mine-1" or url.endswith("runs/mine-1")
    x, y = template.data()
    held_out = slice(int(0.8 * len(y)), None)
    measured = service.load_model(str(tmp_path / "runs" / "mine-1")).evaluate(
        x[held_out], y[held_out], verbose=0, return_dict=True
    )
    assert measured["accuracy"] > 0.9
    assert f"val_accuracy {measured['accuracy']:.5g}" in metrics
