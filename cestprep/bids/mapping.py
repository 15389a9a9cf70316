"""From a scan's volumes to a map with its SD, on the grid of the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np

from cestprep.bids.scans import Scan, scan_affine, scan_data
from cestprep.bids.spec import ANGLES, SATURATION_RECOVERY
from cestprep.imaging.grid import Grid
from cestprep.imaging.registration import Effort
from cestprep.imaging.tissue import head_of
from cestprep.imaging.uncertainty import FIELD_VOXELS, TISSUE_VOXELS, place_sd
from cestprep.imaging.wasabi import Wasabi, fit_moving, fit_still
from cestprep.inference import mapping
from cestprep.inference.chunks import Progress
from cestprep.inference.curves import Curve, fit_curve
from cestprep.physics.protocol import Saturation


def map_scan(scan: Scan, volumes: np.ndarray, noise: Mapping[str, Any]) -> dict[str, Any]:
    """Map (``value``), its ``sd`` and a ``record`` of the fit.

    Parameters
    ----------
    scan : Scan
        Of T1, T2, WASSR or two flip angles.
    volumes : ndarray, shape (x, y, z, n)
        On the grid of the reference; 0 in voxels that are not covered.
    noise : mapping
        ``NoiseSD`` and ``NoiseGain`` of `cestprep.imaging.series.bring`, where known.
    """
    inside = head_of(volumes.max(axis=3)) & (volumes > 0).any(axis=3)
    lost = noise.get("LostVolumes", [])
    sd = noise.get("NoiseSD")
    if scan.name == ANGLES:
        found = mapping.double_angle(volumes[inside].T, np.deg2rad(scan.angle_deg), sd)
        values = {"value": found[0], "sd": found[1]}
        made = _volumes(inside, values, {"Voxels": int((found[0] > 0).sum())})
        return _with_place(made, "value", "sd", FIELD_VOXELS)
    floor = 0.0 if sd is None else sd / noise["NoiseGain"]
    signals = volumes[inside].T
    seen = (signals > 0) & ~np.isin(np.arange(len(signals)), lost)[:, None]
    fit = fit_curve(_curve(scan), signals, floor_sd=floor, seen=seen)
    good = fit.converged & ~fit.at_bound
    row = 0 if scan.banded else 1
    record = {
        "Voxels": int(good.sum()),
        "VoxelsFailed": int((~fit.converged).sum()),
        "VoxelsAtBound": int((fit.converged & fit.at_bound).sum()),
        "MedianRSquared": float(np.median(fit.r_squared[good])) if good.any() else 0.0,
    }
    values = {
        "value": np.where(good, fit.theta[row], 0),
        "sd": np.where(good, fit.sd[row], 0),
        "rsquared": np.where(good, fit.r_squared, 0),
    }
    voxels = FIELD_VOXELS if scan.banded else TISSUE_VOXELS
    made = _with_place(_volumes(inside, values, record), "value", "sd", voxels)
    return _known_only(made, "value", "sd") if scan.banded else made


def _curve(scan: Scan) -> Curve:
    if scan.banded:
        return mapping.wassr_curve(_offsets_ppm(scan))
    if scan.name == SATURATION_RECOVERY:
        return mapping.t1_curve(scan.times_s)
    return mapping.t2_curve(scan.times_s)


def _offsets_ppm(scan: Scan) -> tuple[float, ...]:
    """Offset of each volume's saturation; a volume without any counts as far away."""
    assert scan.protocol is not None
    far = 1e4
    return tuple(
        next((b.offset_ppm for b in v.preparation if isinstance(b, Saturation)), far)
        for v in scan.protocol.volumes
    )


def _volumes(
    inside: np.ndarray, values: Mapping[str, np.ndarray], record: dict[str, Any]
) -> dict[str, Any]:
    """Volumes of what was found in the voxels ``inside``, and the record."""
    found: dict[str, Any] = {"record": record}
    for name, of_voxels in values.items():
        found[name] = np.zeros(inside.shape, np.float32)
        found[name][inside] = of_voxels
    return found


def _with_place(found: dict[str, Any], name: str, sd: str, voxels: float) -> dict[str, Any]:
    """Volumes with the SD that an uncertain place leaves added to that of the fit."""
    place = place_sd(found[name], found[sd] > 0, voxels)
    return found | {sd: np.hypot(found[sd], place).astype(np.float32)}


def _known_only(found: dict[str, Any], name: str, sd: str) -> dict[str, Any]:
    """Volumes with NaN where a map of B0 has no value: 0 is one."""
    known = found[sd] > 0
    return found | {key: np.where(known, found[key], np.nan) for key in (name, sd)}


def fit_fields(
    scan: Scan,
    start: np.ndarray,
    mask: nib.Nifti1Image,
    relaxation: Sequence[np.ndarray | None],
    progress: Progress,
    effort: Effort | None,
) -> dict[str, Any]:
    """B0 (ppm) and B1 (relative) with SDs as volumes, ``transforms``, and a ``record``.

    Parameters
    ----------
    scan : Scan
        WASABI.
    start : ndarray, shape (4, 4)
        From points of the reference to points of the scan's anchor.
    mask : Nifti1Image
        On the grid of the reference.
    relaxation : sequence of ndarray or None
        T1, its SD, T2, its SD in s, as volumes.
    progress : Progress
    effort : Effort or None
        None: the head lay still within the scan.
    """
    assert scan.protocol is not None
    wasabi = Wasabi(scan_data(scan), scan_affine(scan), scan.protocol, scan.anchor)
    grid = Grid(mask.shape[:3], mask.affine)
    t1, t1_sd, t2, t2_sd = relaxation
    assert t1 is not None
    assert t2 is not None
    inside = (np.asarray(mask.dataobj) > 0) & (t1 > 0) & (t2 > 0)
    known = np.stack([t1[inside], t2[inside]])
    covariance = np.zeros((2, 2, known.shape[1]), np.float32)
    for i, sd in enumerate((t1_sd, t2_sd)):
        if sd is not None:
            covariance[i, i] = sd[inside] ** 2
    record: dict[str, Any]
    if effort is not None:
        fit = fit_moving(wasabi, start, grid, inside, (known, covariance), progress, effort)
        estimate, transforms = fit.estimate, fit.transforms
        record = {"NRMSEStill": fit.nrmse[0], "NRMSEMoving": fit.nrmse[1],
                  "MotionCorrected": fit.moved}  # fmt: skip
    else:
        transforms = np.broadcast_to(start, (scan.protocol.n_volumes, 4, 4))
        estimate = fit_still(wasabi, transforms, grid, inside, (known, covariance), progress)
        record = {"MotionCorrected": False}
    good = estimate.valid
    record["Voxels"] = int(good.sum())
    record["VoxelsFailed"] = int((~good).sum())
    values = {"rsquared": np.where(good, estimate.r_squared, 0)}
    for i, name in enumerate(("b0", "b1")):
        values[name] = np.where(good, estimate.mean[i], 0)
        values[f"{name}_sd"] = np.where(good, estimate.sd[i], 0)
    maps = _volumes(inside, values, record)
    for name in ("b0", "b1"):
        maps = _with_place(maps, name, f"{name}_sd", FIELD_VOXELS)
    return {**_known_only(maps, "b0", "b0_sd"), "transforms": transforms}
