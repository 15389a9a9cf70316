"""Maps on the grid of a template."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cestprep.imaging.grid import Grid
from cestprep.imaging.transforms import apply

#: Rounds, at most, of the search for points that are displaced to wanted ones; it ends where no
#: point moves farther than this (mm).
_ROUNDS, _STILL_MM = 30, 0.01
#: A voxel gets a value where at least this share of its neighbours have one.
_LEAST_KNOWN = 0.5


def origins(grid: Grid, displacement: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Points (mm, RAS) that a displacement brings to the voxels of a grid, shape (3, V).

    Parameters
    ----------
    grid : Grid
        In the template's space.
    displacement : ndarray, shape (x, y, z, 3)
        What to add to the place of each voxel of the head (mm, RAS) to be in the template.
    affine : ndarray, shape (4, 4)
        Of those voxels.
    """
    to_index, wanted = np.linalg.inv(affine), grid.points
    found = wanted.copy()
    for _ in range(_ROUNDS):
        index = apply(to_index, found)
        step = [
            ndimage.map_coordinates(displacement[..., i], index, order=1, mode="nearest")
            for i in range(3)
        ]
        before, found = found, wanted - np.stack(step)
        if np.abs(found - before).max() < _STILL_MM:
            break
    return found


def map_at(
    volume: np.ndarray, known: np.ndarray, affine: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """A map at points by linear interpolation among voxels with a value; 0 elsewhere.

    Parameters
    ----------
    volume : ndarray, shape (x, y, z)
    known : ndarray of bool, shape (x, y, z)
        Voxels with a value.
    affine : ndarray, shape (4, 4)
    points : ndarray, shape (3, V)
        In mm, RAS.
    """
    index = apply(np.linalg.inv(affine), points)
    total = ndimage.map_coordinates(np.where(known, volume, 0), index, order=1)
    share = ndimage.map_coordinates(known.astype(np.float32), index, order=1)
    found: np.ndarray = np.where(share >= _LEAST_KNOWN, total / np.maximum(share, 1e-6), 0)
    return found


def label_at(volume: np.ndarray, affine: np.ndarray, points: np.ndarray, blank: int) -> np.ndarray:
    """Labels at points, those of the nearest voxel; ``blank`` beyond the volume."""
    index = apply(np.linalg.inv(affine), points)
    found: np.ndarray = ndimage.map_coordinates(volume, index, order=0, mode="constant", cval=blank)
    return found
