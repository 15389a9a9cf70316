"""Signal equations of the scans that measure T1, T2, B0 and B1, for arrays of voxels.

Shapes: parameters are ``(V,)`` or scalars, acquisition settings ``(n,)``; signals are ``(n, V)``.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def _column(settings: ArrayLike) -> Array:
    return jnp.asarray(settings)[:, None]


def saturation_recovery(m0: ArrayLike, t1: ArrayLike, delay_s: ArrayLike) -> Array:
    """Magnitudes after a recovery from saturation, ``m0 (1 - exp(-t / T1))``.

    Parameters
    ----------
    m0 : array, shape (V,)
        Signal of full recovery, any unit.
    t1 : array, shape (V,)
        In s.
    delay_s : array, shape (n,)
        From saturation to readout, in s.
    """
    return jnp.asarray(m0) * -jnp.expm1(-_column(delay_s) / jnp.asarray(t1))


def transverse_decay(
    m0: ArrayLike, t2: ArrayLike, echo_s: ArrayLike, noise_sd: ArrayLike = 0.0
) -> Array:
    """Expected magnitude of a decay in noise, ``sqrt((m0 exp(-t / T2))^2 + sd^2)``.

    Parameters
    ----------
    m0 : array, shape (V,)
    t2 : array, shape (V,)
        In s.
    echo_s : array, shape (n,)
        Echo time or duration of the T2 preparation, in s.
    noise_sd : float
        SD of the noise before magnitudes are taken, in units of ``m0``.  Source: Gudbjartsson &
        Patz, MRM 34 (1995) 910-914: the noise floor adds in squares.
    """
    clean = jnp.asarray(m0) * jnp.exp(-_column(echo_s) / jnp.asarray(t2))
    power = clean**2 + jnp.asarray(noise_sd) ** 2
    some = power > 0  # the root has no derivative at 0, where exponentials underflow
    return jnp.where(some, jnp.sqrt(jnp.where(some, power, 1.0)), 0.0)


def wassr(
    b0_ppm: ArrayLike, level: ArrayLike, depth: ArrayLike, width_ppm: ArrayLike,
    offset_ppm: ArrayLike,
) -> Array:  # fmt: skip
    """Signal after weak saturation near water: a Lorentzian dip at ``b0_ppm``.

    Parameters
    ----------
    b0_ppm, level, depth : array, shape (V,)
    width_ppm : array, shape (V,)
        Full width at half depth.
    offset_ppm : array, shape (n,)

    Notes
    -----
    Kim et al., MRM 61 (2009) 1441, who take the symmetry centre; direct saturation is Lorentzian.
    """
    x = (_column(offset_ppm) - jnp.asarray(b0_ppm)) / (0.5 * jnp.asarray(width_ppm))
    return jnp.asarray(level) - jnp.asarray(depth) / (1 + x**2)


def double_angle_b1(single: ArrayLike, double: ArrayLike, angle_rad: float) -> Array:
    """True over nominal flip angle from images with a nominal angle and twice that.

    Parameters
    ----------
    single, double : array
        Magnitudes; long repetition time.
    angle_rad : float
        Nominal angle of the first.

    Returns
    -------
    Array
        NaN where the ratio is none of a cosine.  Source: Insko & Bolinger, JMR A 103 (1993) 82.
    """
    cosine = jnp.asarray(double) / (2 * jnp.asarray(single))
    return jnp.where(jnp.abs(cosine) < 1, jnp.arccos(jnp.clip(cosine, -1, 1)), jnp.nan) / angle_rad
