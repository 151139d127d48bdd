"""Both sides of docs/your_script.md, taken from the page, train to the same numbers."""

import ast
import importlib
import pathlib
import re
import runpy
import sys

import numpy as np
import pytest

import service
from tests.jobs import stock

pytestmark = pytest.mark.processes

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "your_script.md"
DIFF = re.findall(r"^```diff\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[0].splitlines()
SCRIPT, JOB = ("".join(f"{line[1:]}\n" for line in DIFF if line[:1] != left_out) for left_out in "+-")


def short(source: str) -> str:
    """Returns the source with fewer epochs, and with the rows in their own order."""
    (place,) = re.findall(r"epochs=\d+", source)
    return source.replace(place, "epochs=3, shuffle=False")


def run_script(path: str) -> dict:
    """Runs the plain script; returns what its history and model hold."""
    names = {}

    def job(worker):
        names.update(runpy.run_path(path))
        return names["history"]

    return {**stock.by_stock(job, "unused", {}), "weights": names["model"].get_weights()}


def run_job(folder: str) -> dict:
    """Trains the job as `service.train` does; returns what its result holds."""
    sys.path.insert(0, folder)
    job = importlib.import_module("cancer_job")
    result = service.train(job.train, service.Run(name="cancer", storage=folder, workers=0, seed=5))
    return {"returned": result.history, "weights": result.model().get_weights()}


def test_the_change_is_about_ten_lines():
    assert sum(line[:1] == "+" and len(line) > 1 for line in DIFF) <= 10
    assert sum(line[:1] == "-" for line in DIFF) <= 5


def test_both_sides_train_to_the_same_numbers(one, tmp_path):
    (tmp_path / "cancer.py").write_text(short(SCRIPT).replace('"cancer.keras"', repr(str(tmp_path / "cancer.keras"))))
    (tmp_path / "cancer_job.py").write_text(short(JOB))
    (script,) = one.call(run_script, str(tmp_path / "cancer.py"))
    (job,) = one.call(run_job, str(tmp_path))
    assert job["returned"].keys() == script["returned"].keys()
    for name, values in job["returned"].items():
        np.testing.assert_allclose(values, script["returned"][name], rtol=1e-6, err_msg=name)
    for mine, keras_s in zip(job["weights"], script["weights"], strict=True):
        np.testing.assert_allclose(mine, keras_s, rtol=0, atol=1e-6)


def test_the_job_s_last_lines_are_a_run():
    (run,) = [
        node for node in ast.walk(ast.parse(JOB)) if isinstance(node, ast.Call) and ast.unparse(node.func) == "service.Run"
    ]
    assert service.Run(**{word.arg: ast.literal_eval(word.value) for word in run.keywords}).workers == 2
