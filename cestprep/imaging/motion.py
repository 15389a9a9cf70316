"""Motion within a series whose contrast changes from volume to volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cestprep.imaging.grid import Grid
from cestprep.imaging.registration import THOROUGH, Effort, register_rigid
from cestprep.imaging.resampling import resample
from cestprep.imaging.transforms import angle_deg, between, displacement_mm, head_points
from cestprep.inference.chunks import Progress

#: A last step straight to the reference counts where it moved the brain less than this many
#: voxels: those before it, by linear interpolation, end up to one off where contrast inverts.
GATE_VOXELS = 1.0
#: Motion from one volume to the next, beyond which a volume counts as lost.
LOST_MM, LOST_DEG = 10.0, 5.0


@dataclass(frozen=True)
class Motion:
    """Motion of a series.

    Attributes
    ----------
    transforms : ndarray, shape (n, 4, 4)
        From points of the reference volume to points of each volume, mm, RAS.
    gated : ndarray of bool, shape (n,)
        Where the last step to the reference was turned down.
    lost : ndarray of bool, shape (n,)
        Volumes whose place is not known; their transform is that between their neighbours.
    """

    transforms: np.ndarray
    gated: np.ndarray
    lost: np.ndarray


def estimate_motion(
    volumes: np.ndarray,
    affine: np.ndarray,
    mask: np.ndarray,
    reference: int = 0,
    effort: Effort = THOROUGH,
    progress: Progress | None = None,
) -> Motion:
    """Rigid motion of every volume of a series.

    Volumes are taken from bright to dim, each registered to the mean of those before it and begun
    where its nearest registered neighbour lies: a dim volume of inverted contrast registered
    straight to the reference ends up centimetres away.  Then one fine step straight to the
    reference takes away what is common to all; it counts where it is small.

    Parameters
    ----------
    volumes : ndarray, shape (x, y, z, n)
    affine : ndarray, shape (4, 4)
    mask : ndarray of bool, shape (x, y, z)
        The brain in the reference volume and some more.
    reference : int
        Volume to which all are aligned.
    effort : Effort, optional
    progress : Progress, optional
    """
    n = volumes.shape[3]
    points = head_points(mask, affine)
    order = _bright_first(volumes, mask, reference)
    found = {reference: np.eye(4)}
    grid = Grid(volumes.shape[:3], affine)
    total = np.array(volumes[..., reference], float)
    for done, i in enumerate(order[1:], start=1):
        near = min(found, key=lambda j, i=i: (abs(j - i), j))  # type: ignore[misc]
        mean = (total / done).astype(np.float32), affine
        found[i] = register_rigid(mean, (volumes[..., i], affine), mask, found[near], effort.volume)
        if not _apart(found[i], found[near], points):
            total += resample(volumes[..., i], affine, grid, [found[i]], "linear")
        else:
            total *= (done + 1) / done  # as if it had not come
        if progress is not None:
            progress(done, 2 * n - 2)
    gated = np.zeros(n, bool)
    gate_mm = GATE_VOXELS * float(grid.voxel_mm.max())
    base = volumes[..., reference], affine
    for done, i in enumerate(order[1:], start=1):
        fine = register_rigid(base, (volumes[..., i], affine), mask, found[i], effort.near)
        gated[i] = displacement_mm(fine, found[i], points).mean() >= gate_mm
        if not gated[i]:
            found[i] = fine
        if progress is not None:
            progress(n - 1 + done, 2 * n - 2)
    transforms = np.stack([found[i] for i in range(n)])
    lost = _lost(transforms, points, reference)
    return Motion(_filled(transforms, lost), gated, lost)


def _bright_first(volumes: np.ndarray, mask: np.ndarray, reference: int) -> list[int]:
    level = volumes[mask].mean(axis=0)
    others = [int(i) for i in np.argsort(-level, kind="stable") if i != reference]
    return [reference, *others]


def _apart(a: np.ndarray, b: np.ndarray, points: np.ndarray) -> bool:
    """Whether two places of the head differ by more than it moves between volumes."""
    far = displacement_mm(a, b, points).mean() > LOST_MM
    return bool(far or angle_deg(a @ np.linalg.inv(b)) > LOST_DEG)


def _lost(transforms: np.ndarray, points: np.ndarray, reference: int) -> np.ndarray:
    """Volumes away from the nearest good ones before them and after them."""
    n = len(transforms)
    lost = np.zeros(n, bool)
    for i in sorted(range(n), key=lambda j: abs(j - reference)):
        if i == reference:
            continue
        good = [j for j in range(n) if not lost[j] and j != i and abs(j - i) <= 3]
        lost[i] = bool(good) and sum(_apart(transforms[i], transforms[j], points) for j in good) > (
            len(good) / 2
        )
    return lost


def _filled(transforms: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Transforms with those of lost volumes put between their neighbours."""
    good = np.flatnonzero(~lost)
    filled = transforms.copy()
    for i in np.flatnonzero(lost):
        before, after = good[good < i], good[good > i]
        if before.size and after.size:
            share = (i - before[-1]) / (after[0] - before[-1])
            filled[i] = between(transforms[before[-1]], transforms[after[0]], share)
        else:
            filled[i] = transforms[before[-1] if before.size else after[0]]
    return filled
