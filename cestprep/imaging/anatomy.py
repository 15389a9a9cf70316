"""Brain, tissues and place in the template, from a map of T1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cestprep.imaging.grid import Grid
from cestprep.imaging.registration import THOROUGH, Effort, register_template
from cestprep.imaging.tissue import grown
from cestprep.imaging.transforms import apply

#: Beyond these (s) a T1 is no tissue's of a head.
_T1_S = (0.2, 6.0)
#: R1 of grey matter and of what is neither, over that of white matter, in a made-up template.
_GREY, _REST = 0.66, 0.25


@dataclass(frozen=True)
class Template:
    """Probabilities and brain of a template.

    Attributes
    ----------
    wm, gm, brain : ndarray, shape (x, y, z)
    affine : ndarray, shape (4, 4)
    """

    wm: np.ndarray
    gm: np.ndarray
    brain: np.ndarray
    affine: np.ndarray

    @property
    def rate(self) -> np.ndarray:
        """An image with the contrast of R1."""
        rest = np.clip(self.brain - self.wm - self.gm, 0, 1)
        rate: np.ndarray = self.wm + _GREY * self.gm + _REST * rest
        return rate


@dataclass(frozen=True)
class Normalized:
    """A head in the template's space.

    Attributes
    ----------
    brain : ndarray of bool, shape (x, y, z)
    priors : ndarray, shape (3, x, y, z)
        Of the tissues, in the order of `cestprep.imaging.tissue.TISSUES`.
    displacement : ndarray, shape (x, y, z, 3)
        What to add to the place of each voxel (mm, RAS) to be in the template.
    """

    brain: np.ndarray
    priors: np.ndarray
    displacement: np.ndarray


def normalize(
    t1_s: np.ndarray,
    rough: np.ndarray,
    affine: np.ndarray,
    template: Template,
    effort: Effort = THOROUGH,
) -> Normalized:
    """Find the template in a map of T1; its brain, brought here, is this brain.

    Parameters
    ----------
    t1_s : ndarray, shape (x, y, z)
    rough : ndarray of bool, shape (x, y, z)
        Roughly the brain.
    affine : ndarray, shape (4, 4)
    template : Template
    effort : Effort, optional
    """
    plausible = rough & (t1_s > _T1_S[0]) & (t1_s < _T1_S[1])
    rate = np.where(plausible, 1 / np.where(plausible, t1_s, 1.0), 0.0)
    field = register_template(
        (rate, affine), (template.rate, template.affine), grown(rough), options=effort.template
    )
    there = Grid(rough.shape, affine).points + field.reshape(-1, 3).T

    def brought(volume: np.ndarray) -> np.ndarray:
        index = apply(np.linalg.inv(template.affine), there)
        values: np.ndarray = ndimage.map_coordinates(np.asarray(volume, np.float32), index, order=1)
        return values.reshape(rough.shape)

    wm, gm, brain = brought(template.wm), brought(template.gm), brought(template.brain)
    priors = np.stack([wm, gm, np.clip(brain - wm - gm, 0, 1)])
    return Normalized(brain > 0.5, priors, field)


def eroded(probability: np.ndarray) -> np.ndarray:
    """Voxels that are mostly of a tissue, and whose neighbours are too."""
    core: np.ndarray = ndimage.binary_erosion(probability > 0.5)
    return core
