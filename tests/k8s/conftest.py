"""The overlays, rendered once each, and the command that makes a run's manifest."""

from pathlib import Path

import pytest
import yaml

from service import cli

ROOT = Path(__file__).parents[2]
OVERLAYS = sorted(path.parent for path in (ROOT / "k8s").glob("*/*/kustomization.yaml") if "components" not in path.parts)
RENDERED = [path for path in OVERLAYS if path.parent.name in ("overlays", "runs")]
NOW = 1_800_000_000.0  # seconds since 1970, for the names that have a time in them


@pytest.fixture(params=RENDERED, ids=lambda path: f"{path.parent.name}/{path.name}")
def documents(request, render) -> list[dict]:
    """What an overlay or a run renders to."""
    return load(render(request.param))


def load(text: str) -> list[dict]:
    """Returns the documents of a rendered text, each a copy of its own."""
    return list(yaml.load_all(text, yaml.CSafeLoader))


@pytest.fixture
def ask(capsys, monkeypatch, environment):
    """Runs the command at a set time; returns its exit code, its documents and what it complains of."""
    monkeypatch.setenv("PATH", environment["PATH"])
    monkeypatch.chdir(ROOT)

    def ask(*words, seconds=NOW):
        code = cli.main(["manifest", *words], clock=lambda: seconds)
        printed = capsys.readouterr()
        return code, load(printed.out), printed.err

    return ask
