"""A digital head with own anatomy: tissue fractions from a template, warped, with scalp and skull.

The template's probabilities only say what is likely where; labels are drawn from them with own
gyral noise after an own warp, so that methods which use the template as a prior do not see
their own truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cestprep.imaging.anatomy import Template
from cestprep.phantom.smooth import smooth_field

#: Tissues of the brain (in the order of the template's priors), then what surrounds it.
BRAIN = ("WM", "GM", "CSF")
AROUND = ("skull", "muscle", "fat")
#: Outer distance (mm) from the brain of its rim of CSF, the skull, the scalp and its fat.
_SHELLS_MM = {"CSF": 2.0, "skull": 7.0, "muscle": 11.0, "fat": 14.0}
#: Of the warp: SD along each axis, and how smooth it is (FWHM), in mm.
WARP_SD_MM, WARP_FWHM_MM = 1.8, 45.0
_GYRAL_SD, _GYRAL_FWHM_MM = 1.0, 4.0


@dataclass(frozen=True)
class Anatomy:
    """Tissue fractions of a head on an isotropic grid.

    Attributes
    ----------
    fractions : mapping of str to ndarray, shape (x, y, z)
        Share of each tissue in a voxel, in [0, 1]; where they add up to less, there is air.
    brain : ndarray of bool, shape (x, y, z)
        Inside the template's brain mask.
    affine : ndarray, shape (4, 4)
        Voxels to mm of head coordinates, RAS.
    to_template : ndarray, shape (x, y, z, 3)
        Template coordinates (mm, RAS) of each voxel.
    """

    fractions: Mapping[str, np.ndarray]
    brain: np.ndarray
    affine: np.ndarray
    to_template: np.ndarray


def make_anatomy(
    template: Template,
    box_mm: tuple[tuple[float, float], ...],
    seed: int,
    *,
    spacing_mm: float = 1.0,
    warp_fwhm_mm: float = WARP_FWHM_MM,
) -> Anatomy:
    """Draw a head.

    Parameters
    ----------
    template : Template
    box_mm : three pairs of float
        Ends of the grid along x, y, z, in mm of head coordinates (near the template's).
    seed : int
    spacing_mm : float
        Of the grid; labels are drawn on it, so that coarser scans have partial volume.
    warp_fwhm_mm : float
        Smoothness of the warp.
    """
    rng = np.random.default_rng([seed, 71])
    ends = np.array(box_mm, float)
    shape = tuple(np.round(np.ptp(ends, axis=1) / spacing_mm).astype(int) + 1)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = ends[:, 0]
    to_template = _warped(shape, affine, rng, warp_fwhm_mm)
    labels, brain = _labels(template, to_template, affine, rng)
    fractions = {
        name: (labels == number).astype(np.float32)
        for number, name in enumerate((*BRAIN, *AROUND), start=1)
    }
    return Anatomy(fractions, brain, affine, to_template)


def _warped(
    shape: tuple[int, ...], affine: np.ndarray, rng: np.random.Generator, fwhm_mm: float
) -> np.ndarray:
    """Template coordinates of all voxels: an affine map and a smooth random displacement."""
    places = np.moveaxis(np.indices(shape, dtype=np.float32), 0, -1)
    places = places * affine[0, 0] + affine[:3, 3].astype(np.float32)
    linear = np.eye(3) + np.diag(rng.uniform(-0.05, 0.05, 3)) + 0.02 * rng.standard_normal((3, 3))
    moved: np.ndarray = places @ linear.T.astype(np.float32) + rng.uniform(-3, 3, 3).astype(
        np.float32
    )
    for axis in range(3):
        moved[..., axis] += WARP_SD_MM * smooth_field(shape, affine[0, 0], fwhm_mm, rng)
    return moved


def _labels(
    template: Template, to_template: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Label of each voxel (0 is air, then `BRAIN` and `AROUND`), and which are in the brain."""
    inverse = np.linalg.inv(template.affine)
    index = np.moveaxis(to_template @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)
    wm, gm, brain = (
        ndimage.map_coordinates(np.asarray(p, np.float32), index, order=1)
        for p in (template.wm, template.gm, template.brain)
    )
    brain = brain > 0.5
    priors = np.stack([wm, gm, np.clip(1 - wm - gm, 0, 1)])
    for i in range(len(BRAIN)):
        noise = _GYRAL_SD * smooth_field(brain.shape, affine[0, 0], _GYRAL_FWHM_MM, rng)
        priors[i] = np.log(np.maximum(priors[i], 1e-3)) + noise
    labels = np.where(brain, 1 + np.argmax(priors, axis=0), 0).astype(np.uint8)
    distance = ndimage.distance_transform_edt(~brain, sampling=affine[0, 0])
    inner = 0.0
    for name, outer in _SHELLS_MM.items():
        shell = (distance > inner) & (distance <= outer)
        labels[shell] = 1 + (*BRAIN, *AROUND).index(name)
        inner = outer
    return labels, brain


def add_lesion(
    anatomy: Anatomy, centre_mm: tuple[float, float, float], radius_mm: float
) -> Anatomy:
    """The head with a roundish lesion that displaces the tissues of the brain.

    Parameters
    ----------
    anatomy : Anatomy
    centre_mm : three float
        In head coordinates.
    radius_mm : float
    """
    places = np.indices(anatomy.brain.shape).T * anatomy.affine[0, 0] + anatomy.affine[:3, 3]
    away = np.linalg.norm((places - np.array(centre_mm)) / (1.0, 1.2, 0.9), axis=-1).T
    inside = ((away < radius_mm) & anatomy.brain).astype(np.float32)
    fractions = {name: f * (1 - inside) for name, f in anatomy.fractions.items()}
    return Anatomy(
        {**fractions, "lesion": inside}, anatomy.brain, anatomy.affine, anatomy.to_template
    )
