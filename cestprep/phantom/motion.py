"""Rigid motion of a head: where it lies in the scanner at each volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

#: Share of the largest motion that a slow drift reaches; steps make up the rest.
_DRIFT = 0.5


def pose(
    angles_deg: Sequence[float] | np.ndarray, shift_mm: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Matrix (4, 4) that turns about the x, y and z axes through the origin, then shifts.

    Parameters
    ----------
    angles_deg, shift_mm : three float
    """
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def series_poses(
    count: int, start: np.ndarray, largest: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Poses (head to scanner) of the volumes of a series: a drift, and two steps.

    Parameters
    ----------
    count : int
    start : ndarray, shape (4, 4)
        Pose of the first volume.
    largest : (float, float)
        Largest shift in mm and rotation in degrees from the first volume.
    rng : numpy Generator

    Returns
    -------
    ndarray, shape (count, 4, 4)
    """
    time = np.linspace(0, 1, count)
    steps = np.sort(rng.uniform(0.15, 0.95, 2))
    course = np.stack([time, time > steps[0], time > steps[1]])  # (3, count)
    ways = rng.standard_normal((6, 3)) * (_DRIFT, 1 - _DRIFT, 1 - _DRIFT)
    path = (ways @ course).T  # (count, 6): shifts, then angles
    for part, most in ((slice(0, 3), largest[0]), (slice(3, 6), largest[1])):
        reach = np.linalg.norm(path[:, part], axis=1).max()
        path[:, part] *= most * rng.uniform(0.6, 1.0) / reach if reach else 0.0
    return np.stack([pose(p[3:], p[:3]) @ start for p in path])


def between_series(
    rng: np.random.Generator, shift_mm: tuple[float, float] = (3, 7), most_deg: float = 3.0
) -> np.ndarray:
    """Pose of a head that moved between series, by a shift within limits in a random direction."""
    way = rng.standard_normal(3)
    way *= rng.uniform(*shift_mm) / np.linalg.norm(way)
    return pose(rng.uniform(-most_deg, most_deg, 3) / np.sqrt(3), way)
