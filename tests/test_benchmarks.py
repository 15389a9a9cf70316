"""The benchmark runs and its table is complete; what it measures is not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FORWARD = Path(__file__).resolve().parents[1] / "benchmarks/forward.py"
TASKS = ("forward", "jacobian2", "jacobian6", "gradient")
CASES = [(pools, solver) for pools in (2, 3) for solver in ("reduced", "general")]


@pytest.mark.slow
def test_forward_reports_every_case(tmp_path):
    file = tmp_path / "speed.json"
    command = [sys.executable, FORWARD, "--quick", "--voxels", "64", "--json", file]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = [line.split()[:3] for line in done.stdout.splitlines()]
    numbers = json.loads(file.read_text())
    assert len(numbers["speed"]) == len(CASES) * len(TASKS)
    for pools, solver in CASES:
        for task in TASKS:
            assert [str(pools), solver, task] in shown
    for row in numbers["speed"]:
        assert row["voxels_per_s"] > 0
    assert [(row["pools"], row["solver"]) for row in numbers["memory"]] == CASES
    assert all(0 < row["peak_gb"] < 1 for row in numbers["memory"])
