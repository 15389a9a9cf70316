"""Curves for `cestprep.inference.curves.fit_curve` of scans of T1, T2 and B0; B1 by two angles.

Each is made once for the same settings, so that its program is compiled once.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from cestprep.inference.curves import Curve
from cestprep.physics import relaxometry

#: Range of T1 and T2, in s, and of the signal of full recovery or no decay over the largest one.
T1_RANGE, T2_RANGE, _LEVEL_RANGE = (0.05, 10.0), (0.003, 5.0), (0.3, 10.0)
#: Where water is looked for, in ppm.
B0_RANGE = (-1.5, 1.5)
_B0_LOOKUP = np.linspace(-1, 1, 42)


@lru_cache(maxsize=8)
def t1_curve(delays_s: tuple[float, ...]) -> Curve:
    """Saturation recovery, two parameters: ``m0, t1`` (s)."""
    return Curve(
        ("m0", "t1"),
        (_LEVEL_RANGE[0], T1_RANGE[0]),
        (_LEVEL_RANGE[1], T1_RANGE[1]),
        lambda theta, sd: relaxometry.saturation_recovery(theta[0], theta[1], np.asarray(delays_s)),
        tuple(product((1.0, 1.5), np.geomspace(0.2, 5, 12))),
    )


@lru_cache(maxsize=8)
def t2_curve(echoes_s: tuple[float, ...]) -> Curve:
    """Decay over echoes or T2 preparations: ``m0, t2`` (s).

    The floor of noise whose SD is known is part of it.  A free offset is never fitted: it takes
    what belongs to long T2.
    """
    return Curve(
        ("m0", "t2"),
        (_LEVEL_RANGE[0], T2_RANGE[0]),
        (_LEVEL_RANGE[1], T2_RANGE[1]),
        lambda theta, sd: relaxometry.transverse_decay(
            theta[0], theta[1], np.asarray(echoes_s), sd
        ),
        tuple(product((1.0, 1.5), np.geomspace(0.01, 2, 16))),
    )


def double_angle(
    signals: np.ndarray, angle_rad: float, noise_sd: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """B1 over nominal and its SD from images with an angle and twice that.

    Parameters
    ----------
    signals : ndarray, shape (2, V)
    angle_rad : float
        Of the first.
    noise_sd : float or None
        SD of either signal; None: SDs are 0, nothing is known.

    Returns
    -------
    tuple of ndarray, shape (V,)
        0 where the ratio is none of a cosine.
    """
    first, second = signals

    def of(single: ArrayLike, double: ArrayLike) -> Array:
        return relaxometry.double_angle_b1(single, double, angle_rad)

    value = np.asarray(of(first, second))
    slopes = [np.asarray(s) for s in jax.vmap(jax.grad(of, (0, 1)))(first, second)]
    sd = np.hypot(*slopes) * (noise_sd or 0.0)
    good = np.isfinite(value) & np.isfinite(sd)
    return np.where(good, value, 0), np.where(good, sd, 0)


@lru_cache(maxsize=8)
def wassr_curve(offsets_ppm: tuple[float, ...]) -> Curve:
    """WASSR: ``b0_ppm, level, depth, width_ppm``."""
    return Curve(
        ("b0_ppm", "level", "depth", "width_ppm"),
        (B0_RANGE[0], 0.2, 0.02, 0.05),
        (B0_RANGE[1], 2.0, 2.0, 4.0),
        lambda theta, sd: relaxometry.wassr(
            theta[0], theta[1], theta[2], theta[3], np.asarray(offsets_ppm)
        ),
        tuple(product(_B0_LOOKUP, (1.0,), (0.3, 0.7, 0.95), (0.15, 0.4, 1.0))),
    )
