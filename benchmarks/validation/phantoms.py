"""L-arginine phantoms by every method, through the program, beside the published dictionary."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.validation import cases
from cestprep.inference import methods

from test_phantoms import MM_PER_FRACTION, compared, quantify, vials  # isort: skip


def nine_tesla(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Three vials of 50 mM: error of their means, largest departures from the published."""
    valid = found["valid"] > 0
    three = vials(found["mask"])
    mean = {key: np.array([found[key][v & valid].mean() for v in three]) for key in "fk"}
    published = {key: np.array([found[f"{key}_published"][v].mean() for v in three])
                 for key in "fk"}  # fmt: skip
    away = {key: np.abs(mean[key] / published[key] - 1).max() for key in "fk"}
    error = np.abs(mean["f"] * MM_PER_FRACTION / 50 - 1).mean()
    return {
        "mM of the vials": " / ".join(f"{x:.1f}" for x in mean["f"] * MM_PER_FRACTION),
        "k, 1/s": " / ".join(f"{x:.0f}" for x in mean["k"]),
        "error of mM": float(error),
        "f from published": float(away["f"]),
        "k from published": float(away["k"]),
        "valid": float(valid[found["mask"] > 0].mean()),
    }


def three_tesla(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Correlation of fractions, and rates of the slow vials of at least 30 mM."""
    valid = found["valid"] > 0
    eroded, inside = compared(found)
    away = []
    for vial in vials(found["mask"]):
        part = vial & eroded
        k, f = (found[f"{key}_published"][part].mean() for key in "kf")
        if k < 700 and f * MM_PER_FRACTION >= 30:
            away.append(found["k"][part & valid].mean() / k - 1)
    ratio = found["f"][inside] / found["f_published"][inside]
    correlation = np.corrcoef(found["f"][inside], found["f_published"][inside])[0, 1]
    return {
        "r of f": float(correlation),
        "k from published": float(np.abs(away).max()),
        "f over published": float(np.median(ratio)),
        "valid": float(valid[eroded].mean()),
    }


#: Played pulses with real tips cost several times what ideal ones do.
_LONGEST_S = 7200.0
_GATES = {"larg9t4": ("larg-9t4", nine_tesla), "larg3t": ("larg-3t", three_tesla)}


def study(shared: Path, name: str) -> dict[str, Any]:
    """All methods on one phantom."""
    rows: dict[str, Any] = {}
    recipe, gates = _GATES[name]
    for method in methods.names():
        with tempfile.TemporaryDirectory(dir=cases.BUILD) as out:
            rows[method] = gates(quantify(shared, name, recipe, Path(out), method, _LONGEST_S))
        print(json.dumps(rows, indent=1), flush=True)
    return rows
