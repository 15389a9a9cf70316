"""Noise of a stage's series, from sources that do not depend on the fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from cestprep.bids.files import read_json
from cestprep.bids.plan import StagePlan
from cestprep.bids.scans import Scan
from cestprep.bids.sidecars import companion
from cestprep.imaging.tissue import rough_brain
from cestprep.inference import noise
from cestprep.inference.noise import Noise
from cestprep.physics.protocol import Protocol

#: A corner reaches over one part in this many of an axis, and keeps off the mask by this margin.
_CORNER_PART, _MARGIN_VOXELS = 8, 2
#: Levels of air may differ between voxels and between volumes by this share beyond the noise.
_MOST_UNEVEN = 0.1
#: After this, what came before has no more part in the signal than noise.
FULL_RECOVERY_S = 10.0


def find_noise(plan: StagePlan, volumes: np.ndarray, mask: np.ndarray) -> Noise | None:
    """SD of one volume and where it was found; None where only the residual is left.

    Parameters
    ----------
    plan : StagePlan
    volumes : ndarray, shape (x, y, z, n_volumes)
        The stage's series.
    mask : ndarray of bool, shape (x, y, z)
    """
    about = fields_of(plan)
    gain = about.get("NoiseGain", 1.0)
    if "NoiseGain" in about:  # interpolation has changed what air looks like
        stated = Noise(about["NoiseSD"], about["NoiseSource"]) if "NoiseSD" in about else None
        return stated if plan.noise_sd is None else Noise(gain * plan.noise_sd, "option")
    air = volumes[corners(mask)]
    repeats = volumes[mask][:, repeated_volumes(plan.problem.protocol)].T
    return noise.find(plan.noise_sd, air.ravel() if is_even(air) else None, repeats)


def fields_of(plan: StagePlan) -> Mapping[str, Any]:
    """Sidecar fields of a stage's series, with those found when it was made."""
    return read_json(companion(plan.series.image, ".json")) if plan.raw else plan.series.fields


def scan_noise(scan: Scan, volumes: np.ndarray) -> Noise | None:
    """Noise of one volume of a raw scan: of the air around the head, or of repeated references."""
    inside = rough_brain(volumes[..., scan.anchor])
    air = volumes[corners(inside)]
    again = None
    if scan.protocol is not None:
        again = volumes[inside][:, repeated_volumes(scan.protocol)].T
    return noise.find(None, air.ravel() if is_even(air) else None, again)


def corners(mask: np.ndarray) -> np.ndarray:
    """Voxels where air is to be expected: corners of the first two axes, away from the mask.

    Ghosts and wrapped parts of the object lie along the axes rather than in the corners.

    Parameters
    ----------
    mask : ndarray of bool, shape (x, y, z)

    Returns
    -------
    ndarray of bool, shape (x, y, z)
    """
    x, y = (_ends(size) for size in mask.shape[:2])
    corner: np.ndarray = (x[:, None] & y)[:, :, None] & ~binary_dilation(
        mask, iterations=_MARGIN_VOXELS
    )
    return corner


def _ends(size: int) -> np.ndarray:
    reach, place = max(size // _CORNER_PART, 1), np.arange(size)
    return (place < reach) | (place >= size - reach)


def is_even(air: np.ndarray) -> bool:
    """Whether samples have one level in all voxels and volumes, as noise has and objects do not.

    A mixture of tissue, ghosts and the noise of several coils may have the mean and SD of
    one coil's noise by chance; unlike it, it is fixed in space or follows the saturation.

    Parameters
    ----------
    air : ndarray, shape (V, n_volumes)
    """
    known = air[np.isfinite(air).all(axis=1)].astype(float)
    if min(known.shape) < 2 or not known.any():
        return False
    return not any(_differ(a) for a in (known, known.T))


def _differ(samples: np.ndarray) -> bool:
    """Whether the rows' means differ by more than scatter within rows explains (three sigma)."""
    within = samples.var(axis=1, ddof=1).mean() / samples.shape[1]
    between = samples.mean(axis=1).var(ddof=1)
    chance = within * (1 + 3 * np.sqrt(2 / (len(samples) - 1)))
    return bool(between > chance + (_MOST_UNEVEN * samples.mean()) ** 2)


def repeated_volumes(protocol: Protocol) -> list[int]:
    """Reference volumes acquired alike, the largest such group.

    Alike means equal preparation and readout, and magnetisation as good as recovered before: the
    first volume, or one after at least `FULL_RECOVERY_S`.
    """
    groups: dict[object, list[int]] = {}
    sampled = [v for v in protocol.volumes if v.readout.sampled]
    for i, (volume, is_m0) in enumerate(zip(sampled, protocol.is_m0, strict=True)):
        if is_m0 and (i == 0 or volume.recovery_s >= FULL_RECOVERY_S):
            groups.setdefault((volume.preparation, volume.readout), []).append(i)
    return max(groups.values(), key=len, default=[])
