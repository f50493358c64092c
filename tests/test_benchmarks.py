"""Every benchmark runs at a small size and prints one JSON object with the ratio of its two sides."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"
SMALL = {
    "backends": ["--batch", "2", "--length", "8", "--passes", "1"],
    "denoise": ["--boards", "2", "--single", "2", "--unwritten", "0.05"],
    "harvest": ["--boards", "2"],
    "probe_sweep": ["--boards", "30", "--points", "2", "--sample", "2"],
    "sae": ["--boards", "8", "--points", "2", "--steps", "2", "--batch", "128", "--d-sae", "32", "--k", "4"],
    "train": ["--size", "nano", "--batch", "2", "--steps", "1"],
}


def test_every_benchmark_has_a_small_size() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} - {"side_by_side"} == set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_it_prints_a_ratio(name: str) -> None:
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--json", "--repeats", "1", *SMALL[name]]
    ran = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    assert math.isfinite(figures["ratio"])
    assert figures["ratio"] > 0
    assert figures["arguments"]["repeats"] == 1
