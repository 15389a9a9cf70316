"""Rigid and affine transforms as matrices (4, 4) between points in mm, RAS.

A transform of a registration maps points of the fixed image to points of the moving one, which is
the direction a resampler needs.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

#: Changes points between RAS (NIfTI) and LPS (ITK); its own inverse.
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Radius of the head for framewise displacement, in mm (Power et al., NeuroImage 59 (2012) 2142).
_HEAD_RADIUS_MM = 50.0


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points ``(3, V)`` after a transform."""
    moved: np.ndarray = matrix[:3, :3] @ points + matrix[:3, 3:]
    return moved


def grid_points(mask: np.ndarray, affine: np.ndarray, step: int = 1) -> np.ndarray:
    """Centres of every ``step``-th voxel of a mask in mm, shape (3, V)."""
    return apply(affine, np.argwhere(mask)[::step].T)


#: Points on which displacements of a head are judged.
_POINTS = 2000


def head_points(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Some centres of voxels all over a mask in mm, shape (3, V)."""
    return grid_points(mask, affine, max(1, int(mask.sum()) // _POINTS))


def displacement_mm(a: np.ndarray, b: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How far apart two transforms put each point, shape (V,)."""
    distance: np.ndarray = np.linalg.norm(apply(a, points) - apply(b, points), axis=0)
    return distance


def angle_deg(matrix: np.ndarray) -> float:
    """Angle of the rotation of a rigid transform."""
    return float(np.rad2deg(Rotation.from_matrix(matrix[:3, :3]).magnitude()))


def between(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """The rigid transform a share of the way from ``a`` to ``b``."""
    turns = Rotation.from_matrix(np.stack([a[:3, :3], b[:3, :3]]))
    matrix = np.eye(4)
    matrix[:3, :3] = Slerp([0, 1], turns)(share).as_matrix()
    matrix[:3, 3] = (1 - share) * a[:3, 3] + share * b[:3, 3]
    return matrix


def motion_parameters(transforms: np.ndarray, centre_mm: np.ndarray) -> np.ndarray:
    """Shifts of a centre (mm) and rotation vectors (rad), shape (n, 6).

    Parameters
    ----------
    transforms : ndarray, shape (n, 4, 4)
    centre_mm : ndarray, shape (3,)
        Of the head; about another point the same motion has other shifts.
    """
    shifts = np.stack([apply(m, centre_mm[:, None])[:, 0] - centre_mm for m in transforms])
    turns = Rotation.from_matrix(transforms[:, :3, :3]).as_rotvec()
    return np.concatenate([shifts, turns], axis=1)


def framewise_displacement(parameters: np.ndarray) -> np.ndarray:
    """Sum of absolute changes from the volume before, in mm, shape (n,); the first is NaN.

    Parameters
    ----------
    parameters : ndarray, shape (n, 6)
        Of `motion_parameters`; rotations count as arcs on a sphere of 50 mm.
    """
    scaled = parameters * [1, 1, 1, _HEAD_RADIUS_MM, _HEAD_RADIUS_MM, _HEAD_RADIUS_MM]
    steps = np.abs(np.diff(scaled, axis=0)).sum(axis=1)
    return np.concatenate([[np.nan], steps])
