"""Smooth random fields."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

#: Standard deviation of a Gaussian over its full width at half maximum.
SD_PER_FWHM = 1 / np.sqrt(8 * np.log(2))


def smooth_field(
    shape: tuple[int, ...], spacing_mm: float, fwhm_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """A random field of mean 0 and SD 1, as smooth as white noise after a Gaussian filter.

    Parameters
    ----------
    shape : (int, int, int)
    spacing_mm : float
        Of the grid, in mm.
    fwhm_mm : float
        Of the filter, in mm.
    rng : numpy Generator

    Returns
    -------
    ndarray of float32, shape ``shape``
    """
    # drawn on a grid that still resolves it, so that wide filters cost nothing
    coarse_mm = max(spacing_mm, fwhm_mm / 5)
    sizes = [int(np.ceil((n - 1) * spacing_mm / coarse_mm)) + 1 for n in shape]
    sigma = fwhm_mm * SD_PER_FWHM / coarse_mm
    margin = int(np.ceil(4 * sigma))
    noise = rng.standard_normal([n + 2 * margin for n in sizes]).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, sigma)
    smooth = (smooth - smooth.mean()) / smooth.std()
    inner = smooth[tuple(slice(margin, -margin or None) for _ in sizes)]
    index = np.meshgrid(
        *(np.arange(n, dtype=np.float32) * (spacing_mm / coarse_mm) for n in shape), indexing="ij"
    )
    field: np.ndarray = ndimage.map_coordinates(inner, index, order=1, mode="nearest")
    return field
