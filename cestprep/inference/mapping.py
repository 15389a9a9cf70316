"""Maps of T1, T2, B0 and B1 from the scans that measure them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np

from cestprep.inference.chunks import Progress
from cestprep.inference.curves import Curve, CurveFit, fit_curve
from cestprep.physics import relaxometry

#: Range of T1 and T2, in s, and of the signal of full recovery or no decay over the largest one.
T1_RANGE, T2_RANGE, _LEVEL_RANGE = (0.05, 10.0), (0.003, 5.0), (0.3, 10.0)
#: Where WASABI looks for water (ppm) and for B1: the fringes repeat, so each voxel begins at the
#: best of a lookup over this range; without it one in ten ends in a wrong minimum.
B0_RANGE, B1_RANGE = (-1.5, 1.5), (0.2, 1.8)
_B0_LOOKUP, _B1_LOOKUP = np.linspace(-1, 1, 42), np.linspace(0.5, 1.45, 20)


def fit_t1(
    signals: np.ndarray,
    delays_s: Sequence[float],
    noise_sd: float | None = None,
    progress: Progress | None = None,
) -> CurveFit:
    """T1 from saturation recovery, two parameters; names ``m0, t1``.

    Parameters
    ----------
    signals : ndarray, shape (n, V)
    delays_s : sequence of n float
    noise_sd : float, optional
        SD of one signal; None: from the residual.
    """
    return fit_curve(
        _t1_curve(tuple(map(float, np.asarray(delays_s)))), signals, noise_sd, progress
    )


def fit_t2(
    signals: np.ndarray,
    echoes_s: Sequence[float],
    noise_sd: float | None = None,
    progress: Progress | None = None,
) -> CurveFit:
    """T2 from echoes or T2 preparations; names ``m0, t2``.

    Parameters
    ----------
    signals : ndarray, shape (n, V)
    echoes_s : sequence of n float
    noise_sd : float, optional
        SD of the noise before magnitudes are taken, whose floor is part of the model; None: no
        floor, and SDs from the residual.  A free offset is never fitted: it takes what belongs to
        long T2.
    """
    return fit_curve(_t2_curve(tuple(map(float, echoes_s))), signals, noise_sd, progress)


def fit_wasabi(
    signals: np.ndarray,
    offsets_ppm: Sequence[float],
    pulse: tuple[float, float],
    frequency_mhz: float,
    noise_sd: float | None = None,
    progress: Progress | None = None,
) -> CurveFit:
    """B0 and B1 from WASABI; names ``b0_ppm, b1_scale, level, depth``.

    Parameters
    ----------
    signals : ndarray, shape (n, V)
        Of the volumes with a pulse.  They need no division by M0: level and depth are fitted, so
        the noise of M0 does not enter.
    offsets_ppm : sequence of n float
    pulse : (float, float)
        Duration in s, nominal B1 in uT.
    frequency_mhz : float
    noise_sd : float, optional
    """
    curve = _wasabi_curve(tuple(map(float, offsets_ppm)), pulse, frequency_mhz)
    return fit_curve(curve, signals, noise_sd, progress)


def fit_wassr(
    signals: np.ndarray,
    offsets_ppm: Sequence[float],
    noise_sd: float | None = None,
    progress: Progress | None = None,
) -> CurveFit:
    """B0 from WASSR; names ``b0_ppm, level, depth, width_ppm``.

    Parameters
    ----------
    signals : ndarray, shape (n, V)
    offsets_ppm : sequence of n float
    noise_sd : float, optional
    """
    return fit_curve(_wassr_curve(tuple(map(float, offsets_ppm))), signals, noise_sd, progress)


@lru_cache(maxsize=8)  # one object, one compiled program
def _t1_curve(delays_s: tuple[float, ...]) -> Curve:
    starts = tuple((level, t1) for level in (1.0, 1.5) for t1 in np.geomspace(0.2, 5, 12))
    return Curve(
        ("m0", "t1"),
        (_LEVEL_RANGE[0], T1_RANGE[0]),
        (_LEVEL_RANGE[1], T1_RANGE[1]),
        lambda theta, sd: relaxometry.saturation_recovery(theta[0], theta[1], np.asarray(delays_s)),
        starts,
    )


@lru_cache(maxsize=8)
def _t2_curve(echoes_s: tuple[float, ...]) -> Curve:
    starts = tuple((level, t2) for level in (1.0, 1.5) for t2 in np.geomspace(0.01, 2, 16))
    return Curve(
        ("m0", "t2"),
        (_LEVEL_RANGE[0], T2_RANGE[0]),
        (_LEVEL_RANGE[1], T2_RANGE[1]),
        lambda theta, sd: relaxometry.transverse_decay(
            theta[0], theta[1], np.asarray(echoes_s), sd
        ),
        starts,
    )


@lru_cache(maxsize=8)
def _wasabi_curve(
    offsets_ppm: tuple[float, ...], pulse: tuple[float, float], frequency_mhz: float
) -> Curve:
    return Curve(
        ("b0_ppm", "b1_scale", "level", "depth"),
        (B0_RANGE[0], B1_RANGE[0], 0.2, 0.2),
        (B0_RANGE[1], B1_RANGE[1], 2.0, 4.0),
        lambda theta, sd: relaxometry.wasabi(
            theta[0], theta[1], theta[2], theta[3], np.asarray(offsets_ppm), pulse, frequency_mhz
        ),
        tuple(product(_B0_LOOKUP, _B1_LOOKUP, (0.8, 0.95), (1.4, 1.7))),
        groups=6,
    )


@lru_cache(maxsize=8)
def _wassr_curve(offsets_ppm: tuple[float, ...]) -> Curve:
    starts = product(_B0_LOOKUP, (1.0,), (0.3, 0.7, 0.95), (0.15, 0.4, 1.0))
    return Curve(
        ("b0_ppm", "level", "depth", "width_ppm"),
        (B0_RANGE[0], 0.2, 0.02, 0.05),
        (B0_RANGE[1], 2.0, 2.0, 4.0),
        lambda theta, sd: relaxometry.wassr(
            theta[0], theta[1], theta[2], theta[3], np.asarray(offsets_ppm)
        ),
        tuple(starts),
    )
