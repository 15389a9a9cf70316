"""Errors of maps that no residual shows: those of place."""

from __future__ import annotations

import numpy as np

#: Registration leaves a value uncertain by what this share of a voxel further along would change;
#: in maps of tissue interpolation and mixed voxels do too (measured on the digital head, at 1.8 and
#: at 3 mm).
FIELD_VOXELS, TISSUE_VOXELS = 0.16, 0.19


def place_sd(volume: np.ndarray, known: np.ndarray, voxels: float) -> np.ndarray:
    """SD that an uncertain place leaves in a map.

    Parameters
    ----------
    volume : ndarray, shape (x, y, z)
    known : ndarray of bool, shape (x, y, z)
        Where the map has values.
    voxels : float
        SD of the place, in voxels.

    Returns
    -------
    ndarray, shape (x, y, z)
        0 where the map has none.
    """
    values = np.where(known, volume, np.nan).astype(float)
    total = np.zeros(volume.shape)
    for axis in range(3):
        step = np.diff(values, axis=axis)
        after = np.concatenate([step, np.full_like(values.take([0], axis), np.nan)], axis)
        before = np.concatenate([np.full_like(values.take([0], axis), np.nan), step], axis)
        both = np.stack([before, after])
        count = np.isfinite(both).sum(axis=0)
        total += (np.nansum(both, axis=0) / np.maximum(count, 1)) ** 2
    return np.where(known, voxels * np.sqrt(total), 0.0)
