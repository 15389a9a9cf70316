"""Images on another grid, by one interpolation through all transforms (SimpleITK)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

from cestprep.imaging.grid import Grid
from cestprep.imaging.transforms import LPS

_INTERPOLATORS = {
    "nearest": sitk.sitkNearestNeighbor,
    "linear": sitk.sitkLinear,
    "cubic": sitk.sitkBSpline3,
}


def to_sitk(data: np.ndarray, affine: np.ndarray) -> Any:
    """SimpleITK image of an array (x, y, z) with a NIfTI affine.

    Raises
    ------
    ValueError
        If the affine shears, which ITK images cannot hold.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(data).T))
    spacing, direction, origin = geometry(affine)
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(origin.tolist())
    return image


def geometry(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spacing (3,), directions (3, 3) and origin (3,) of an affine, in ITK's LPS.

    Raises
    ------
    ValueError
        If the affine shears.
    """
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        raise ValueError("the affine shears; resample the image to orthogonal axes")
    left, _, right = np.linalg.svd(direction)  # ITK asks for more digits than headers have
    return spacing, left @ right, lps[:3, 3]


def to_itk_transform(matrix: np.ndarray) -> Any:
    """SimpleITK transform of a matrix between RAS points."""
    lps = LPS @ matrix @ LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def resample(
    data: np.ndarray,
    affine: np.ndarray,
    grid: Grid,
    transforms: Sequence[np.ndarray | Any] = (),
    interpolation: str = "cubic",
) -> np.ndarray:
    """An image (x, y, z) on a grid; 0 where the grid leaves it.

    Parameters
    ----------
    data, affine
        The image.
    grid : Grid
    transforms : sequence of matrix (4, 4) or SimpleITK transform
        From points of the grid to points of the image, applied in this order.
    interpolation : {"cubic", "linear", "nearest"}
    """
    steps = [to_itk_transform(t) if isinstance(t, np.ndarray) else t for t in transforms]
    chain = sitk.CompositeTransform(3)
    for step in reversed(steps):  # ITK applies the last one first
        chain.AddTransform(step)
    moving = to_sitk(np.asarray(data, np.float32), affine)
    like = to_sitk(np.zeros(grid.shape, np.uint8), grid.affine)
    found = sitk.Resample(moving, like, chain, _INTERPOLATORS[interpolation], 0.0)
    array: np.ndarray = sitk.GetArrayFromImage(found).T
    return array


def write_displacement(path: str, displacement: np.ndarray, affine: np.ndarray) -> None:
    """Write what to add to the place of each voxel (mm, RAS) as an ITK transform.

    Parameters
    ----------
    path : str
        Its ending says the format, such as ``.h5``.
    displacement : ndarray, shape (x, y, z, 3)
    affine : ndarray, shape (4, 4)
    """
    lps = np.asarray(displacement, float) * [-1.0, -1.0, 1.0]
    spacing, direction, origin = geometry(affine)
    field = sitk.GetImageFromArray(np.ascontiguousarray(lps.transpose(2, 1, 0, 3)), isVector=True)
    field.SetSpacing(spacing.tolist())
    field.SetDirection(direction.ravel().tolist())
    field.SetOrigin(origin.tolist())
    sitk.WriteTransform(sitk.DisplacementFieldTransform(field), path)


def read_displacement(path: str) -> np.ndarray:
    """What `write_displacement` wrote, in mm, RAS, shape (x, y, z, 3)."""
    field = sitk.DisplacementFieldTransform(sitk.ReadTransform(path)).GetDisplacementField()
    lps = sitk.GetArrayFromImage(field).transpose(2, 1, 0, 3)
    displacement: np.ndarray = (lps * [-1.0, -1.0, 1.0]).astype(np.float32)
    return displacement


def resample_series(
    data: np.ndarray, affine: np.ndarray, grid: Grid, transforms: Sequence[np.ndarray]
) -> np.ndarray:
    """Volumes (x, y, z, n), each through its own transform (grid to volume), by cubic splines."""
    volumes = [
        resample(data[..., i], affine, grid, [matrix]) for i, matrix in enumerate(transforms)
    ]
    return np.stack(volumes, axis=-1)
