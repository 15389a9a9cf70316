"""Where the voxels of an image lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cestprep.imaging.transforms import apply


@dataclass(frozen=True)
class Grid:
    """Voxels in space.

    Attributes
    ----------
    shape : (int, int, int)
    affine : ndarray, shape (4, 4)
        Voxels to mm, RAS.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def voxel_mm(self) -> np.ndarray:
        """Sides of a voxel, shape (3,)."""
        sides: np.ndarray = np.linalg.norm(self.affine[:3, :3], axis=0)
        return sides

    @property
    def points(self) -> np.ndarray:
        """Centres of all voxels in mm, shape (3, V)."""
        index = np.indices(self.shape).reshape(3, -1)
        return apply(self.affine, index)
