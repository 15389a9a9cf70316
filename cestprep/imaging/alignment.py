"""Where the head lies in one series, seen from another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cestprep.imaging.registration import THOROUGH, Effort, register_rigid
from cestprep.imaging.transforms import angle_deg, displacement_mm, head_points

#: Heads do not move farther between series of one session; what does is a failed registration.
FARTHEST_MM, FARTHEST_DEG = 40.0, 25.0


@dataclass(frozen=True)
class Alignment:
    """Place of a series.

    Attributes
    ----------
    matrix : ndarray, shape (4, 4)
        From points of the reference to points of the series, mm, RAS.
    moved_mm : float
        Mean displacement of the head that was found.
    failed : bool
        Whether that was beyond belief; the matrix is the identity then, so headers count.
    """

    matrix: np.ndarray
    moved_mm: float
    failed: bool


def align(
    reference: tuple[np.ndarray, np.ndarray],
    anchor: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray,
    effort: Effort = THOROUGH,
) -> Alignment:
    """Rigid transform of a series by its volume of full signal.

    Saturated, short-TR or late-echo volumes end up centimetres away, so they never anchor a series.

    Parameters
    ----------
    reference, anchor : (ndarray (x, y, z), affine)
    mask : ndarray of bool
        The brain in the reference and some more.
    effort : Effort, optional
    """
    found = register_rigid(reference, anchor, mask, options=effort.series)
    points = head_points(mask, reference[1])
    moved = float(displacement_mm(found, np.eye(4), points).mean())
    failed = moved > FARTHEST_MM or angle_deg(found) > FARTHEST_DEG
    return Alignment(np.eye(4) if failed else found, moved, failed)
