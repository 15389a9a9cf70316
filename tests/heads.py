"""A digital head for tests, coarse enough to be drawn in seconds."""

from __future__ import annotations

import functools

import numpy as np

from cestprep.data.template import brain_template
from cestprep.imaging.anatomy import Template
from cestprep.imaging.grid import Grid
from cestprep.imaging.transforms import apply
from cestprep.phantom import anatomy, scan
from cestprep.physics import relaxometry

BOX = ((-90, 90), (-120, 90), (-20, 60))


@functools.cache
def template() -> Template:
    return brain_template()


@functools.cache
def subject(seed: int = 0) -> scan.Subject:
    head = anatomy.make_anatomy(template(), BOX, seed, spacing_mm=2.0)
    return scan.make_subject(head, seed)


def grid(voxel_mm: float = 3.0) -> Grid:
    """Most of the head, with air around it."""
    affine = np.diag([voxel_mm] * 3 + [1.0])
    affine[:3, 3] = (-85, -115, -12)
    return Grid(tuple(int(mm / voxel_mm) for mm in (170, 200, 66)), affine)


def recovery(seed, delays_s, voxel_mm=3.0):
    """Series of a saturation recovery: short delays are dim, and white matter brightest."""

    def signal_of(p):
        return np.asarray(p["m0"] * relaxometry.saturation_recovery(1.0, p["t1"], delays_s))

    return scan.make_series(scan.blur(subject(seed), grid(voxel_mm)), signal_of)


def brain(seed, where, pose):
    """Mask of the brain on a grid, with the head at a pose."""
    points = apply(np.linalg.inv(pose), where.points)
    anatomy_ = subject(seed).anatomy
    inside = scan.sample(anatomy_.brain.astype(np.float32), anatomy_.affine, points) > 0.5
    return inside.reshape(where.shape)
