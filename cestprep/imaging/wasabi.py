"""Motion within a WASABI series, whose dark bands lie where the fields put them.

Bands follow B0 and B1, not the head, and mislead a registration of the volumes with each other.  So
the fields are fitted, every volume is synthesised from them, and each measured volume is registered
to its own synthetic one, whose contrast is its own; then fitted again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from cestprep.imaging.grid import Grid
from cestprep.imaging.registration import THOROUGH, Effort, register_rigid
from cestprep.imaging.resampling import resample_series
from cestprep.imaging.transforms import displacement_mm, head_points
from cestprep.inference.chunks import Progress, phase
from cestprep.inference.estimate import Estimate
from cestprep.inference.fields import fit_wasabi
from cestprep.inference.problem import Observation
from cestprep.physics.protocol import Protocol
from cestprep.resources import computing_cores

#: A volume that a registration moves farther (mean over the brain, mm) stays where it was.
_FARTHEST_MM = 8.0
#: Volumes count as aligned better if the residual falls by this share at least.
_BETTER = 0.01


@dataclass(frozen=True)
class WasabiFit:
    """Fields, and where the head lay in each volume.

    Attributes
    ----------
    estimate : Estimate
        B0 (ppm) and B1 (relative) of the voxels of the mask.
    transforms : ndarray, shape (n, 4, 4)
        From points of the grid to points of each volume, mm, RAS.
    nrmse : tuple of float
        Median residual with one transform for all volumes, and with one for each.
    moved : bool
        Whether the latter was better, and so was kept.
    """

    estimate: Estimate
    transforms: np.ndarray
    nrmse: tuple[float, float]
    moved: bool


@dataclass(frozen=True)
class Wasabi:
    """A series and what its fit needs.

    Attributes
    ----------
    volumes : ndarray, shape (x, y, z, n)
    affine : ndarray, shape (4, 4)
    protocol : Protocol
    anchor : int
        Volume by which the series was registered.
    """

    volumes: np.ndarray
    affine: np.ndarray
    protocol: Protocol
    anchor: int


def fit_moving(
    wasabi: Wasabi,
    start: np.ndarray,
    grid: Grid,
    mask: np.ndarray,
    relaxation: tuple[np.ndarray, np.ndarray],
    progress: Progress | None = None,
    effort: Effort = THOROUGH,
) -> WasabiFit:
    """B0 and B1 of a head that moved during the scan.

    Parameters
    ----------
    wasabi : Wasabi
    start : ndarray, shape (4, 4)
        From points of the grid to points of the series' anchor.
    grid : Grid
    mask : ndarray of bool, shape of the grid
        Voxels to fit.
    relaxation : (ndarray (2, V), ndarray (2, 2, V))
        T1 and T2 (s) of the voxels of the mask, and their covariance.
    progress : Progress, optional
    effort : Effort, optional
    """
    n = wasabi.volumes.shape[3]
    still = np.broadcast_to(start, (n, 4, 4))
    first = fit_still(wasabi, still, grid, mask, relaxation, phase(progress, "WASABI"))
    transforms, estimate = still, first
    for number in range(effort.rounds):
        part = phase(progress, f"WASABI motion, round {number + 1} of {effort.rounds}", "volumes")
        transforms = _registered(wasabi, transforms, grid, mask, estimate, effort, part)
        part = phase(progress, f"WASABI, fit {number + 2} of {effort.rounds + 1}")
        estimate = fit_still(wasabi, transforms, grid, mask, relaxation, part)
    nrmse = _level(first), _level(estimate)
    moved = nrmse[1] < (1 - _BETTER) * nrmse[0]
    chosen = (estimate, transforms) if moved else (first, still)
    return WasabiFit(*chosen, nrmse, moved)


def _level(estimate: Estimate) -> float:
    return float(np.median(estimate.nrmse[estimate.valid])) if estimate.valid.any() else np.inf


def fit_still(
    wasabi: Wasabi,
    transforms: np.ndarray,
    grid: Grid,
    mask: np.ndarray,
    relaxation: tuple[np.ndarray, np.ndarray],
    progress: Progress | None = None,
) -> Estimate:
    """B0 and B1 with every volume taken from where its transform says."""
    volumes = resample_series(wasabi.volumes, wasabi.affine, grid, [*transforms])
    data = np.maximum(volumes[mask].T, 0)
    estimate = fit_wasabi(wasabi.protocol, Observation(data, *relaxation), progress)
    return _with_misfit(estimate, data)


def _with_misfit(estimate: Estimate, data: np.ndarray) -> Estimate:
    """The estimate, less certain where the residual is larger than noise makes it elsewhere.

    Motion that is left and mixed voxels do that here.
    """
    residual = estimate.nrmse * np.linalg.norm(data, axis=0)
    usual = np.median(residual[estimate.valid]) if estimate.valid.any() else 1.0
    factor = np.maximum(residual / max(usual, np.finfo(np.float32).tiny), 1.0)
    return replace(estimate, covariance=estimate.covariance * factor**2)


def _registered(
    wasabi: Wasabi,
    transforms: np.ndarray,
    grid: Grid,
    mask: np.ndarray,
    estimate: Estimate,
    effort: Effort,
    progress: Progress | None,
) -> np.ndarray:
    """Transforms of the volumes to what the fields say of each, as a whole tied to the anchor."""
    synthetic = _filled(estimate, mask)
    points = head_points(mask, grid.affine)

    def place(i: int) -> np.ndarray:
        fixed, moving = (synthetic[..., i], grid.affine), (wasabi.volumes[..., i], wasabi.affine)
        matrix = register_rigid(fixed, moving, mask, transforms[i], effort.near)
        near = displacement_mm(matrix, transforms[i], points).mean() < _FARTHEST_MM
        return matrix if near else transforms[i]

    places = []
    with ThreadPoolExecutor(computing_cores()) as pool:
        for matrix in pool.map(place, range(len(transforms))):
            places.append(matrix)
            if progress is not None:
                progress(len(places), len(transforms))
    found = np.stack(places)
    away = np.linalg.inv(found[wasabi.anchor]) @ transforms[wasabi.anchor]
    tied: np.ndarray = found @ away
    return tied


def _filled(estimate: Estimate, mask: np.ndarray) -> np.ndarray:
    """Synthetic volumes, the nearest voxel's signal outside the mask."""
    image = np.zeros((*mask.shape, len(estimate.fitted)), np.float32)
    image[mask] = estimate.fitted.T
    known = np.zeros(mask.shape, bool)
    known[mask] = estimate.fitted.any(axis=0)
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled: np.ndarray = image[tuple(nearest)]
    return filled
