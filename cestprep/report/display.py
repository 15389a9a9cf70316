"""How voxels of a session are shown: right, anterior and superior up, cropped to the mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

from cestprep.bids.files import load_image

MARGIN = 2  # voxels around the mask, in plane


@dataclass(frozen=True)
class Display:
    """Orientation and crop taken from a mask image."""

    image: nib.Nifti1Image
    mask: np.ndarray

    @classmethod
    def of(cls, mask: Path) -> Display:
        """Display of a mask file."""
        image = load_image(mask)
        return cls(image, np.asarray(image.dataobj) > 0)

    @property
    def aspect(self) -> float:
        """Height over width of a shown voxel."""
        zooms = nib.as_closest_canonical(self.image).header.get_zooms()
        return float(zooms[1] / zooms[0])

    def show(self, volume: np.ndarray) -> np.ndarray:
        """A volume on the mask's grid, turned to RAS and cropped."""
        turn = io_orientation(self.image.affine)
        inside = apply_orientation(self.mask.astype(np.uint8), turn) > 0
        turned: np.ndarray = apply_orientation(volume, turn)
        return turned[_box(inside)]

    def spread(self, values: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """Values of the voxels in the mask as a shown volume, NaN where ``keep`` is false."""
        volume = np.full(self.mask.shape, np.nan)
        volume[self.mask] = np.where(keep, values, np.nan)
        return self.show(volume)


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    box = []
    for axis in range(3):
        places = np.flatnonzero(mask.any(axis=tuple(i for i in range(3) if i != axis)))
        grow = MARGIN if axis < 2 else 0
        box.append(slice(max(places[0] - grow, 0), places[-1] + 1 + grow))
    return tuple(box)
