"""The wheel holds everything and works where the checkout is not (an editable install hides what is missing)."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("interp", "models", "probes")
SITE = Path(sysconfig.get_path("purelib"))


def run(*command: str | Path, cwd: Path) -> str:
    """Returns what a command printed; fails with all it said if it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built with the installed build backend."""
    for needed in ("build", "uv_build"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed, so no wheel can be built offline")
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new environment that holds the wheel, and sees this one's other packages behind it."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    commands = folder / ("Scripts" if os.name == "nt" else "bin")
    run(sys.executable, "-m", "pip", "--python", commands / "python", "install", "--no-deps", "--no-index", wheel, cwd=folder)
    site = run(commands / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # A folder named in a .pth file comes last on the path, and .pth files inside it (our editable install) are not read.
    (Path(site) / "dependencies.pth").write_text(f"{SITE}\n", encoding="utf-8")
    return commands


def test_the_wheel_holds_every_module_template_and_bundled_model(wheel: Path) -> None:
    patterns = [f"{package}/**/*.py" for package in PACKAGES] + ["interp/viz/templates/**/*", "models/pretrained/**/*"]
    ours = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    assert "models/__init__.py" in ours
    assert not {name for name in ours if "__pycache__" not in name} - packed


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        assert not [name for name in archive.namelist() if "__pycache__" in name]
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_installed_packages_are_the_wheels(environment: Path, package: str) -> None:
    place = run(environment / "python", "-c", f"import {package}; print({package}.__file__)", cwd=Path("/")).strip()
    assert Path(place).is_relative_to(environment.parent)


def test_the_command_helps_from_anywhere(environment: Path) -> None:
    assert "demo" in run(environment / "denoscope", "--help", cwd=Path("/"))


def test_the_command_lists_policies_from_anywhere(environment: Path) -> None:
    assert json.loads(run(environment / "denoscope", "policies", "--json", cwd=Path("/")))
