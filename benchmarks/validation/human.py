"""How near a prepared session of the digital head is to its truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion
from scipy.spatial.transform import Rotation

from cestprep.bids.digital import Options, make_subject
from cestprep.bids.spec import MOTION
from cestprep.imaging.transforms import LPS, displacement_mm, grid_points
from cestprep.phantom import scan

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
        inside = true & found
        rows[tissue] = {"Dice": dice((labels == value) & inside, (got == value) & inside)}
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
    anatomy = subject.anatomy
    true = np.stack([scan.sample(anatomy.to_template[..., i], anatomy.affine, there)
                     for i in range(3)])  # fmt: skip
    (path,) = (out / STEM.format("anat", "")).parent.glob("*_to-cestref_*xfm.h5")
    warp = sitk.ReadTransform(str(path))
    lps = np.diag(LPS)[:3]
    moved = np.array([warp.TransformPoint((p * lps).tolist()) for p in points.T]).T * lps[:, None]
    error = np.linalg.norm(moved - true, axis=0)
    return {"mean": float(error.mean()), "p95": float(np.percentile(error, 95)),
            "before": float(np.linalg.norm(points - true, axis=0).mean())}  # fmt: skip


def rows(raw: Path, out: Path, options: Options) -> Mapping[str, Mapping[str, Row]]:
    """Everything about one session."""
    from cestprep.bids.digital import CENTRE_MM, FREQUENCY_MHZ

    return {
        "motion": motion_rows(raw, out, np.array(CENTRE_MM)),
        "maps": map_rows(raw, out, FREQUENCY_MHZ),
        "anatomy": anatomy_rows(raw, out, options),
    }
