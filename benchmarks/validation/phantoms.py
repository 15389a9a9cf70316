"""L-arginine phantoms by every method, through the program, beside the published dictionary."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.validation import cases
from cestprep.inference import methods

MM_PER_FRACTION = 110e3 / 3


def maps(data: Path, name: str, recipe: str, method: str, out: Path) -> dict[str, np.ndarray]:
    """Fractions and rates of a phantom by a method, and the published ones."""
    import nibabel as nib

    root = data / name
    published = root / "derivatives/published"
    command = [sys.executable, "-m", "cestprep", str(root), str(out / "out"), "participant"]
    command += ["--recipe", recipe, "--method", method, "--assume-nominal", "B0", "B1"]
    command += ["--derivatives", f"published={published}", "-w", str(out / "work")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ours = f"sub-{name}_acq-larg_space-cestref_model-bm2poolcest_"
    theirs = f"sub-{name}_acq-larg_desc-dictmatch_param-"
    files = {
        "f": (out / "out", f"{ours}param-fs_desc-{method}_cestmap"),
        "k": (out / "out", f"{ours}param-ksw_desc-{method}_cestmap"),
        "valid": (out / "out", f"{ours}label-valid_desc-{method}_mask"),
        "f_published": (published, f"{theirs}fs_cestmap"),
        "k_published": (published, f"{theirs}ksw_cestmap"),
        "mask": (published, f"sub-{name}_desc-vials_mask"),
    }
    found = {
        key: np.asarray(nib.load(folder / f"sub-{name}/cest/{stem}.nii.gz").dataobj)
        for key, (folder, stem) in files.items()
    }
    return found | {"f": 0.01 * found["f"]}


def _vials(mask: np.ndarray) -> list[np.ndarray]:
    labels, count = ndimage.label(mask > 0)
    return [labels == i for i in range(1, count + 1)]


def nine_tesla(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Three vials of 50 mM: error of their means, largest departures from the published."""
    valid = found["valid"] > 0
    vials = _vials(found["mask"])
    mean = {key: np.array([found[key][v & valid].mean() for v in vials]) for key in "fk"}
    published = {key: np.array([found[f"{key}_published"][v].mean() for v in vials])
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
    eroded = ndimage.binary_erosion(found["mask"][..., 0] > 0)[..., None]
    inside = eroded & valid & (found["k_published"] < 700)
    away = []
    for vial in _vials(found["mask"]):
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


def study(data: Path) -> dict[str, Any]:
    """All methods on both phantoms."""
    rows = {}
    for name, recipe, gates in (
        ("larg9t4", "larg-9t4", nine_tesla),
        ("larg3t", "larg-3t", three_tesla),
    ):
        for method in methods.names():
            with tempfile.TemporaryDirectory(dir=cases.BUILD) as out:
                rows[f"{name}, {method}"] = gates(maps(data, name, recipe, method, Path(out)))
    return rows
