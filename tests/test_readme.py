"""Every command and every name in README.md and docs/ is one there is."""

import ast
import importlib
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import service
from service import cli, job_command

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    (language, text)
    for page in PAGES
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
]
COMMANDS = [line.split("#")[0].strip() for language, text in BLOCKS if language == "" for line in text.splitlines()]
JOBS = [c for c in COMMANDS if "python -m jobs." in c]
CODE = [text for language, text in BLOCKS if language == "python"]


@pytest.mark.parametrize("command", JOBS)
def test_a_job_s_command_has_the_options_it_uses(command):
    words = shlex.split(command[command.index("python -m jobs.") :])
    module = importlib.import_module(words[2])
    trained = []

    def train(job, run, **options):
        trained.append(run)
        raise KeyboardInterrupt

    code = job_command.command(module.train, module.Options, name="x", argv=words[3:], train=train)
    assert code == (0 if "--help" in words else 130)
    assert bool(trained) != ("--help" in words)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m service")])
def test_a_command_of_the_service_is_one_there_is(command, tmp_path):
    words = shlex.split(command.partition("|")[0])[3:]
    if words[0] == "manifest":  # tests/k8s carries these out; here their options are looked at
        assert cli._parse(words)[0] == "manifest"
        return
    # The run is not there, which is another code than words that are wrong.
    assert cli.main([*words[:1], str(tmp_path / "none")]) != 2


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_a_make_command_has_a_target(command):
    target = command.split()[1]
    assert subprocess.run(["make", "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True).returncode == 0


def test_tensorboard_is_there_and_the_submit_command_is_ray_s():
    assert any(c.startswith("tensorboard --logdir") for c in COMMANDS)
    assert pathlib.Path(sys.executable).with_name("tensorboard").exists()
    assert any(c.startswith("ray job submit --working-dir . -- ") for c in COMMANDS)
    assert pathlib.Path(sys.executable).with_name("ray").exists()


@pytest.mark.parametrize("text", CODE)
def test_code_uses_names_that_the_service_has(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "service":
                assert node.attr in service.__all__
            if node.value.id == "worker":
                assert node.attr in dir(service.Worker) or node.attr in (service.Worker.__doc__ or "")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "Run":
            service.Run(**{word.arg: ast.literal_eval(word.value) for word in node.keywords})


def test_every_file_the_pages_point_to_is_there():
    for page in PAGES:
        for path in re.findall(r"`((?:tests|docs|jobs|service)/[\w/.]+)`|\]\(([\w/.]+)\)", page.read_text()):
            assert (ROOT / path[0] if path[0] else page.parent / path[1]).exists(), f"{page.name} points to {path}"
