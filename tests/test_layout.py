"""The top level, the packages' places, and what an import may cost."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "constraints.txt",
    "interp",
    "models",
    "notebooks",
    "probes",
    "pyproject.toml",
    "tests",
}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|opt|Users|mnt)/\w")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files git tracks, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip(f"git cannot list the files: {listing.stderr.strip()}")
    return [Path(name) for name in listing.stdout.split("\0") if name]


def test_top_level_holds_only_what_belongs_there(tracked: list[Path]) -> None:
    assert {path.parts[0] for path in tracked} <= TOP_LEVEL


def test_no_tracked_file_names_a_machine_path(tracked: list[Path]) -> None:
    found = []
    for path in tracked:
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        found += [f"{path}: {text[match.start() : match.start() + 40]!r}" for match in MACHINE_PATH.finditer(text)]
    assert not found


def test_the_machine_path_pattern_finds_one() -> None:
    assert MACHINE_PATH.search('open("' + "/".join(["", "home", "someone", "file"]) + '")')
    assert not MACHINE_PATH.search("src/work/x and https://example.org/home/x")


@pytest.mark.parametrize("name", ["interp", "models", "probes"])
def test_each_package_is_ours(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).parent == ROOT / name


@pytest.mark.parametrize("folder", ["tests", "notebooks"])
def test_no_init_file_where_none_belongs(folder: str) -> None:
    assert not list((ROOT / folder).rglob("__init__.py"))


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for name in ("interp", "models", "probes") for path in (ROOT / name).rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def loaded_by(code: str) -> set[str]:
    """Returns the top-level modules that a fresh interpreter has loaded after ``code``."""
    report = "\nimport sys\nprint('\\nLOADED', *{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(result.stdout.rsplit("LOADED", 1)[1].split())


def test_help_imports_neither_torch_nor_plotly() -> None:
    code = """
import sys
from interp.cli import main
sys.argv = ["denoscope", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
"""
    loaded = loaded_by(code)
    assert "interp" in loaded
    assert not loaded & {"torch", "plotly", "transformers", "transformer_lens", "sae_lens", "nnsight"}


def test_training_and_denoising_load_no_interpretability_library() -> None:
    loaded = loaded_by("import models.train, models.denoise")
    assert "models" in loaded
    assert not loaded & {"transformer_lens", "sae_lens", "nnsight", "plotly", "interp", "probes"}
