"""Volumes of a series brought to the reference, and what that does to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cestprep.imaging.grid import Grid
from cestprep.imaging.resampling import resample, resample_series

#: Volumes through which white noise is sent to see what interpolation leaves of it.
_NOISE_VOLUMES = 8


@dataclass(frozen=True)
class Brought:
    """A series on the grid of the reference.

    Attributes
    ----------
    volumes : ndarray, shape (x, y, z, n)
        0 in voxels that a volume does not reach; in all volumes, unless that was asked otherwise.
    noise_gain : float
        SD of the noise of one volume over that before the interpolation.
    """

    volumes: np.ndarray
    noise_gain: float


def bring(
    volumes: np.ndarray,
    affine: np.ndarray,
    grid: Grid,
    transforms: np.ndarray,
    lost: Sequence[int] = (),
    *,
    partly: bool = False,
) -> Brought:
    """Resample every volume once, through its own transform.

    Parameters
    ----------
    volumes : ndarray, shape (x, y, z, n)
    affine : ndarray, shape (4, 4)
    grid : Grid
    transforms : ndarray, shape (n, 4, 4)
        From points of the grid to points of each volume.
    lost : sequence of int
        Volumes whose place is not known: what they do not reach does not count.
    partly : bool
        Whether voxels that only some volumes reach keep the values of these.
    """
    moved = np.maximum(resample_series(volumes, affine, grid, [*transforms]), 0)
    whole = np.ones(volumes.shape[:3], np.float32)
    reached: np.ndarray = np.stack(
        [resample(whole, affine, grid, [m], "linear") > 0.999 for m in transforms], axis=-1
    )
    if not partly:
        kept = [i for i in range(len(transforms)) if i not in lost]
        reached = reached[..., kept].min(axis=-1, keepdims=True)
    gain = _noise_gain(whole.shape, affine, grid, transforms)
    return Brought(np.where(reached, moved, 0), gain)


def _noise_gain(
    shape: tuple[int, ...], affine: np.ndarray, grid: Grid, transforms: np.ndarray
) -> float:
    rng = np.random.default_rng(0)
    chosen = np.unique(np.linspace(0, len(transforms) - 1, _NOISE_VOLUMES).round().astype(int))
    variances = []
    for i in chosen:
        noise = rng.standard_normal(shape).astype(np.float32)
        left = resample(noise, affine, grid, [transforms[i]])
        variances.append(np.mean(left[left != 0] ** 2))
    return float(np.sqrt(np.mean(variances)))
