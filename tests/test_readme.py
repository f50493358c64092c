"""The README's Python runs, its file tree is that of the packages, and its commands exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
TREE = next(text for language, text in BLOCKS if not language and text.startswith("models/"))


def tree_paths() -> dict[str, str]:
    """Returns every path of the file tree with its comment; folders end with a slash."""
    paths: dict[str, str] = {}
    parents: list[str] = []
    for line in TREE.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, comment = line.strip().partition(" ")
        parents = [*parents[:depth], name]
        paths["".join(parents)] = comment.strip()
    return paths


def test_every_path_of_the_tree_exists_and_is_of_its_kind() -> None:
    assert not [path for path in tree_paths() if not ((ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file())]


def test_every_module_is_in_the_tree() -> None:
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in ("models", "probes", "interp")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert "models/facts.py" in modules
    assert not modules - set(tree_paths())


def test_every_file_of_the_tree_has_a_comment() -> None:
    assert not [path for path, comment in tree_paths().items() if not comment and not path.endswith("/")]


def test_the_command_table_names_every_command() -> None:
    from interp.cli.app import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    commands |= {group.name for group in app.registered_groups}
    assert commands
    assert set(re.findall(r"^\| `denoscope (\w+)", README, flags=re.MULTILINE)) == commands


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README)) - {"notebooks/images/trace.png"}))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_every_benchmark_is_in_the_table() -> None:
    scripts = {path.name for path in (ROOT / "tests" / "benchmarks").glob("*.py")} - {"side_by_side.py"}
    assert set(re.findall(r"^\| `(\w+\.py)` \|", README, flags=re.MULTILINE)) == scripts


def test_the_python_runs(tmp_path: Path) -> None:
    """All blocks in their order, as one program, where the checkout is not the working directory."""
    program = "\n".join(text for language, text in BLOCKS if language == "python")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^step 1: r\dc\d = \d", ran.stdout, flags=re.MULTILINE), ran.stdout
