"""The house of README's tree: imports go down, outside libraries have one home, captions say what a file is."""

import ast
import pathlib
import re

import pytest

SERVICE = pathlib.Path(__file__).parents[1] / "service"
README = SERVICE.parent / "README.md"
# A room is a file or a folder right under service/. Each imports only from floors below its own, or from itself.
FLOORS = [
    "errors",
    "secrecy",
    "run",
    "environment policies kubernetes",
    "storage cluster",
    "data exact",
    "training keras2 board",
    "callbacks checks",
    "given moments earlier",
    "ready",
    "methods",
    "attempt",
    "worker reference record kept",
    "trainer",
    "job_command cli_doctor cli_runs cli_text cli_logs manifest",
    "cli_verify",
    "cli",
    "__main__",
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
HOMES = {
    "ray": {"cluster", "trainer"},
    "fsspec": {"storage", "worker"},
    "tensorflow": {"cluster", "data", "exact", "training", "board", "callbacks", "ready"},
    "keras": {
        "data",
        "exact",
        "training",
        "board",
        "callbacks",
        "checks",
        "keras2",
        "given",
        "earlier",
        "moments",
        "ready",
        "methods",
        "attempt",
        "worker",
    },
}
FILES = sorted(path for path in SERVICE.rglob("*.py"))


def room(path):
    return path.relative_to(SERVICE).with_suffix("").parts[0]


def imports(path):
    """Yields every dotted name a file imports, but not what only a type checker reads."""
    tree = ast.parse(path.read_text())
    checked = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in checked:
            continue
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", [p for p in FILES if p != SERVICE / "__init__.py"], ids=lambda p: str(p.relative_to(SERVICE)))
def test_imports_go_down(path):
    here = room(path)
    for name in imports(path):
        library, *rest = name.split(".")
        if library == "service":
            there = rest[0]
            assert there == here or FLOOR[there] < FLOOR[here], f"{path.name} is on floor {FLOOR[here]}; {name} is not below"
        assert library not in HOMES or here in HOMES[library], f"{path.name} imports {library}; it lives in {HOMES[library]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SERVICE)))
def test_a_file_fits_on_a_few_screens(path):
    limit = 150 if path.name == "loop.py" else 300
    assert path.read_text().count("\n") <= limit


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__init__.py"], ids=lambda p: str(p.relative_to(SERVICE)))
def test_the_readme_carries_each_file_s_caption(path):
    caption = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
    assert caption.endswith(".") and len(caption) <= 90, f"{path} opens with {caption!r}: expected one short sentence"
    line = re.compile(rf"^ *{re.escape(path.name)} +{re.escape(caption)}$", re.MULTILINE)
    assert line.search(README.read_text()), f"README's tree has no line '{path.name}  {caption}'"


def test_only_the_package_and_its_callbacks_hand_names_on():
    filled = [str(p.relative_to(SERVICE)) for p in FILES if p.name == "__init__.py" and p.read_text().strip()]
    assert filled in (["__init__.py"], ["__init__.py", "callbacks/__init__.py"])
