"""How near a prepared session of the digital head is to its truth, and the estimates made of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion
from scipy.spatial.transform import Rotation

from cestprep.bids.digital import (
    CENTRE_MM,
    FREQUENCY_MHZ,
    SNR,
    Options,
    acquisitions,
    make_subject,
    write_session,
)
from cestprep.bids.mapping import map_scan
from cestprep.bids.scans import Scan
from cestprep.bids.spec import MOTION, SATURATION_RECOVERY
from cestprep.data import load_recipe
from cestprep.data.template import brain_template
from cestprep.imaging.anatomy import normalize
from cestprep.imaging.tissue import rough_brain
from cestprep.imaging.transforms import LPS, displacement_mm, grid_points
from cestprep.inference.recipe import Recipe
from cestprep.phantom import scan
from cestprep.phantom.protocols import RECOVERY_S
from cestprep.phantom.session import take

STEM = "sub-01/ses-01/{}/sub-01_ses-01_{}"
#: Name of each scan in files of the truth, and where its motion was written.
SCANS = {
    "mt": ("mt", "cest", "mt"),
    "amide": ("amide", "cest", "amide"),
    "SRT1": ("srt1", "anat", "srt1"),
    "T2PREP": ("t2prep", "anat", "t2prep"),
    "WASABI": ("wasabi", "fmap", "wasabi"),
}
MAPS = {"T1": ("anat", "T1map"), "T2": ("anat", "T2map"), "B0": ("fmap", "fieldmap"),
        "B1": ("fmap", "TB1map")}  # fmt: skip
#: Errors beyond this (ppm) are those of a wrong minimum.
WRONG_PPM = 0.1
#: Smoothness of the difference from the template, beside the usual one.
NARROW_MM = 25.0
Row = dict[str, Any]


def volume(path: Path) -> np.ndarray:
    """Values of an image."""
    data: np.ndarray = nib.load(f"{path}.nii.gz").get_fdata(dtype=np.float32)
    return data


def itk_matrices(path: Path) -> np.ndarray:
    """Matrices between RAS points of an ITK text file, shape (n, 4, 4)."""
    found = []
    for line in path.read_text().splitlines():
        if line.startswith("Parameters:"):
            numbers = np.array(line.split()[1:], float)
            matrix = np.eye(4)
            matrix[:3, :3], matrix[:3, 3] = numbers[:9].reshape(3, 3), numbers[9:]
            found.append(LPS @ matrix @ LPS)
    return np.stack(found)


def true_matrices(path: Path, centre: np.ndarray) -> np.ndarray:
    """Matrices of a table of true motion, whose shifts are those of a centre."""
    table = pd.read_csv(path, sep="\t")[list(MOTION)].to_numpy()
    found = np.broadcast_to(np.eye(4), (len(table), 4, 4)).copy()
    found[:, :3, :3] = Rotation.from_rotvec(table[:, 3:]).as_matrix()
    found[:, :3, 3] = table[:, :3] + centre - found[:, :3, :3] @ centre
    return found


def motion_rows(raw: Path, out: Path, centre: np.ndarray) -> dict[str, Row]:
    """Mean displacement of the brain that is left in each volume, mm."""
    truth = raw / "derivatives/truth"
    brain = nib.load(f"{truth / STEM.format('cest', 'space-cestref_desc-brain_mask')}.nii.gz")
    points = grid_points(np.asarray(brain.dataobj) > 0, brain.affine, 20)
    rows = {}
    for name, (label, folder, acq) in SCANS.items():
        true = true_matrices(
            truth / f"{STEM.format('cest', f'acq-{label}_desc-motion_timeseries')}.tsv", centre
        )
        where = STEM.format(folder, f"acq-{acq}_from-orig_to-cestref_mode-image_desc-hmc_xfm.txt")
        found = itk_matrices(out / where)
        place = out / STEM.format(folder, f"from-{name}_to-cestref_mode-image_desc-coreg_xfm.txt")
        between = itk_matrices(place)[0] if place.exists() else np.eye(4)
        anchor = int(np.argmin([displacement_mm(m, np.eye(4), points).mean() for m in found]))
        left = np.array([displacement_mm(f @ between, t, points).mean()
                         for f, t in zip(found, true, strict=True)])  # fmt: skip
        within = np.array(
            [
                displacement_mm(f, t @ np.linalg.inv(true[anchor]), points).mean()
                for f, t in zip(found, true, strict=True)
            ]
        )
        uncorrected = np.array(
            [
                displacement_mm(t @ np.linalg.inv(true[anchor]), np.eye(4), points).mean()
                for t in true
            ]
        )
        rows[name] = {
            "uncorrected, mean": uncorrected.mean(),
            "left, mean": left.mean(),
            "left, max": left.max(),
            "series": displacement_mm(between, true[anchor], points).mean(),
            "within, mean": within.mean(),
            "within, max": within.max(),
            "within over uncorrected": within.mean() / uncorrected.mean(),
        }
    return rows


def tissue_labels(truth: Path) -> np.ndarray:
    """Labels of the truth: 1 WM, 2 GM, 3 CSF."""
    return volume(truth / STEM.format("anat", "space-cestref_seg-tissue_dseg"))


def map_rows(raw: Path, out: Path, frequency_mhz: float) -> dict[str, Row]:
    """Errors of T1, T2, B0 and B1 inside the brain, and how SD maps cover them."""
    truth = raw / "derivatives/truth"
    labels, rows = tissue_labels(truth), {}
    brain = volume(truth / STEM.format("cest", "space-cestref_desc-brain_mask")) > 0
    for quantity, (folder, suffix) in MAPS.items():
        true = volume(truth / STEM.format(folder, f"space-cestref_{suffix}"))
        found = volume(out / STEM.format(folder, f"space-cestref_{suffix}"))
        sd = volume(out / STEM.format(folder, f"space-cestref_stat-std_{suffix}"))
        scale = {"B0": frequency_mhz, "B1": 100.0}.get(quantity, 1.0)
        error, known = (found - true) / scale, brain & (sd > 0)
        row: Row = {"missing": float(1 - known[brain].mean())}
        if quantity in ("T1", "T2"):
            for value, name in ((1, "WM"), (2, "GM")):
                inside = binary_erosion(labels == value) & known
                relative = error[inside] / true[inside]
                row |= {f"bias, {name}": np.median(relative), f"SD, {name}": robust_sd(relative)}
        else:
            row |= {"bias": np.median(error[known]), "SD": robust_sd(error[known]),
                    "beyond .1": np.mean(np.abs(error[known]) > WRONG_PPM)}  # fmt: skip
        matter = binary_erosion(np.isin(labels, (1, 2))) & known
        score = np.abs(error[matter]) * scale / sd[matter]
        row |= {"68 %": np.mean(score < 1), "95 %": np.mean(score < 1.96)}
        rows[quantity] = {key: float(x) for key, x in row.items()}
    return rows


def robust_sd(values: np.ndarray) -> float:
    """SD by the central 68 %."""
    low, high = np.percentile(values, [15.87, 84.13])
    return float(high - low) / 2


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def anatomy_rows(raw: Path, out: Path, options: Options) -> dict[str, Row]:
    """Overlap of brain and tissues, and distance from the true place in the template."""
    truth = raw / "derivatives/truth"
    name = STEM.format("cest", "space-cestref_desc-brain_mask")
    true, found = volume(truth / name) > 0, volume(out / name) > 0
    rows: dict[str, Row] = {"brain": {"Dice": dice(true, found)}}
    labels = tissue_labels(truth)
    got = volume(out / STEM.format("anat", "space-cestref_seg-tissue_dseg"))
    for value, tissue in ((1, "WM"), (2, "GM"), (3, "CSF")):
        rows[tissue] = {"Dice": dice((labels == value) & true, (got == value) & true)}
    rows["template"] = template_row(raw, out, options)
    return rows


def template_row(raw: Path, out: Path, options: Options) -> Row:
    """Distance from the true place in the template, mm, in the brain."""
    import SimpleITK as sitk  # noqa: N813

    truth = raw / "derivatives/truth"
    name = STEM.format("cest", "space-cestref_desc-brain_mask")
    mask = nib.load(f"{truth / name}.nii.gz")
    points = grid_points(np.asarray(mask.dataobj) > 0, mask.affine, 10)
    subject = make_subject(options)
    pose = np.array(json.loads(Path(f"{truth / name}.json").read_text())["HeadToScanner"])
    head = np.linalg.inv(pose)
    there = head[:3, :3] @ points + head[:3, 3:]
    (path,) = (out / STEM.format("anat", "")).parent.glob("*_to-cestref_*xfm.h5")
    warp = sitk.ReadTransform(str(path))
    lps = np.diag(LPS)[:3]
    moved = np.array([warp.TransformPoint((p * lps).tolist()) for p in points.T]).T * lps[:, None]
    return _distances(moved, points, there, subject)


def _distances(
    found: np.ndarray, before: np.ndarray, points: np.ndarray, subject: scan.Subject
) -> Row:
    """Of found places in the template, and of those before, from the true ones of head points."""
    anatomy = subject.anatomy
    true = np.stack([scan.sample(anatomy.to_template[..., i], anatomy.affine, points)
                     for i in range(3)])  # fmt: skip
    error = np.linalg.norm(found - true, axis=0)
    return {"mean": float(error.mean()), "p95": float(np.percentile(error, 95)),
            "before": float(np.linalg.norm(before - true, axis=0).mean())}  # fmt: skip


def narrow_row(options: Options) -> Row:
    """The same of a head that differs from the template within `NARROW_MM`, by its T1 alone."""
    subject, grid = make_subject(options, NARROW_MM), options.grid
    blurred = scan.blur(subject, grid)
    recovery = [a for a in acquisitions(options.recipe) if a.name == SATURATION_RECOVERY]
    (one,) = take(blurred, grid, recovery, 1 / SNR, options.seed, moves=False)
    t1 = map_scan(Scan(one.name, (), 0, times_s=RECOVERY_S), one.data, {})["value"]
    found = normalize(t1, rough_brain(one.data[..., 0]), grid.affine, brain_template())
    inside = scan.Truth(blurred, grid, np.eye(4)).brain
    points = grid.points[:, inside.ravel()]
    return _distances(points + found.displacement[inside].T, points, points, subject)


def session_rows(raw: Path, out: Path, options: Options) -> Mapping[str, Row]:
    """Everything about the preparation of one session."""
    return {
        **motion_rows(raw, out, np.array(CENTRE_MM)),
        **map_rows(raw, out, FREQUENCY_MHZ),
        **anatomy_rows(raw, out, options),
        f"template, {NARROW_MM:g} mm warp": narrow_row(options),
    }


def estimate_rows(raw: Path, out: Path, still: Path) -> dict[str, Row]:
    """Errors of the estimates in inner white and grey matter, over those without motion.

    Parameters
    ----------
    raw : Path
        Session with its truth.
    out : Path
        Estimates from it.
    still : Path
        Estimates of the same head, which did not move, with true maps.
    """
    truth, rows = raw / "derivatives/truth", {}
    labels = tissue_labels(truth)
    pattern = "sub-01/ses-01/cest/*_param-*_desc-truth_cestmap.nii.gz"
    for path in sorted(truth.glob(pattern)):
        true = nib.load(path).get_fdata(dtype=np.float32)
        name = path.name.split("_param-")[1].split("_")[0]
        found = [_estimate(folder, path.name) for folder in (out, still)]
        row: Row = {}
        for value, tissue in ((1, "WM"), (2, "GM")):
            inside = binary_erosion(labels == value) & found[0][1] & found[1][1]
            ours, best = (float(np.median(np.abs(f - true)[inside])) for f, _ in found)
            row |= {f"error, {tissue}": ours, f"without motion, {tissue}": best,
                    f"ratio, {tissue}": ours / best}  # fmt: skip
        rows[name] = row
    return rows


def _estimate(out: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A map and where it is valid."""
    folder = out / "sub-01/ses-01/cest"
    values = volume(folder / name.replace("_desc-truth_", "_desc-psvae_").removesuffix(".nii.gz"))
    stem = name.split("_param-")[0]
    valid = volume(folder / f"{stem}_label-valid_desc-psvae_mask") > 0
    return values, valid


def study(folder: Path, size: str, seed: int, *, whole: bool = False) -> dict[str, Row]:
    """Make a session, run the program on it, and compare.

    Parameters
    ----------
    folder : Path
        Where sessions and results go.
    size : str
        One of `cestprep.bids.digital.SIZES`.
    seed : int
    whole : bool
        Whether to estimate too, of this head and of one that did not move.
    """
    options = Options(Recipe.from_mapping(load_recipe("brain-3t")), size, seed)
    moving, still = folder / f"{size}-{seed}", folder / f"{size}-{seed}-still"
    if not (moving / "raw/derivatives/truth/sub-01").exists():
        write_session(moving / "raw", options)
    spent = run(moving, () if whole else ("--stop-after", "preproc"))
    found = dict(session_rows(moving / "raw", moving / "out", options))
    if whole:
        write_session(still / "raw", replace(options, moves=False))
        maps = still / "raw/derivatives/truth"
        run(still, ("--no-motion", "--derivatives", f"truth={maps}"))
        found |= estimate_rows(moving / "raw", moving / "out", still / "out")
    return {f"seed {seed}, {name}": row for name, row in (found | {"run": spent}).items()}


def run(folder: Path, extra: Sequence[str]) -> Row:
    """Run the program on ``raw``; minutes, and the most memory of all its processes."""
    for stale in ("out", "work"):
        shutil.rmtree(folder / stale, ignore_errors=True)
    places = [str(folder / name) for name in ("raw", "out")]
    command = [sys.executable, "-m", "cestprep", *places, "participant", "-w", str(folder / "work")]
    started, most = time.monotonic(), 0.0
    with (folder / "log.txt").open("w") as log:
        program = subprocess.Popen([*command, *extra], stderr=log, start_new_session=True)
        while program.poll() is None:
            most = max(most, _memory_gb(program.pid))
            time.sleep(2)
    if program.returncode:
        raise RuntimeError(f"exit code {program.returncode}, see {folder / 'log.txt'}")
    return {"minutes": (time.monotonic() - started) / 60, "GB": most}


def _memory_gb(session: int) -> float:
    """Resident memory of all processes of a session; what they share counts in each."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        total += int(fields[21]) if int(fields[3]) == session else 0
    return total * os.sysconf("SC_PAGE_SIZE") / 2**30
