"""Absorption lineshapes of the semisolid pool.

Each takes the RF offset from the pool in rad/s and the pool's T2 in s, arrays that broadcast, and
returns g in s, even in the offset and of unit area over it (apart from a cut-off, where there is
one): a field w1 saturates the pool at the rate pi w1^2 g.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.interpolate import CubicSpline

#: Offset in rad/s below which the super-Lorentzian, infinite on resonance, is extrapolated: 1 ppm
#: at 3 T.  Pulseq-CEST and BMCTool cut at 1 ppm of whichever field; a fixed frequency keeps the
#: lineshape one of the tissue, not of the scanner.
SUPER_LORENTZIAN_CUTOFF = 2 * math.pi * 127.73

#: The super-Lorentzian is T2 exp(-x^2 / 2) log(1 + _NEAR / x^2) R(x) with x = offset T2: its
#: logarithm near resonance (exact with this number, where R is 1 / sqrt(6 pi)), its decay far off.
_NEAR = 8 * (2 - math.sqrt(3)) * math.exp(-np.euler_gamma)
#: log x between which R changes: below, it is constant to 1e-6; above, the exponential is zero.
_LOW, _HIGH, _STEPS = math.log(1e-3), math.log(100.0), 256
_STEP = (_HIGH - _LOW) / _STEPS


def lorentzian(offset_rad_s: Array, t2_s: Array) -> Array:
    """Normalised Lorentzian ``g(offset)`` in s: T2 / pi / (1 + (offset T2)^2)."""
    return t2_s / (3.141592653589793 * (1.0 + (offset_rad_s * t2_s) ** 2))


def gaussian(offset_rad_s: Array, t2_s: Array) -> Array:
    """Normalised Gaussian ``g(offset)`` in s: T2 / sqrt(2 pi) exp(-(offset T2)^2 / 2)."""
    return t2_s / math.sqrt(2 * math.pi) * jnp.exp(-0.5 * (offset_rad_s * t2_s) ** 2)


def super_lorentzian(offset_rad_s: Array, t2_s: Array) -> Array:
    """Normalised super-Lorentzian ``g(offset)`` in s.

    The integral over u from 0 to 1 of sqrt(2 / pi) T2 / |3 u^2 - 1| exp(-2 (offset T2 /
    (3 u^2 - 1))^2), to 1e-6 of its value in float64.  At an offset d below
    `SUPER_LORENTZIAN_CUTOFF` = c it is the value at (c + d^2 / c) / 2, which is even, finite, and
    meets the integral at c in value and slope.

    Source: Morrison & Henkelman, Magn Reson Med 33 (1995) 475-482, doi:10.1002/mrm.1910330404.
    The cut-off is a convention: Pulseq-CEST joins a cubic below it instead.
    """
    cutoff = SUPER_LORENTZIAN_CUTOFF
    size = jnp.abs(offset_rad_s)
    inside = 0.5 * (cutoff + offset_rad_s**2 / cutoff)
    x = jnp.maximum(jnp.where(size < cutoff, inside, size) * t2_s, 1e-9)  # 0 only where T2 is
    return t2_s * jnp.exp(-0.5 * x**2) * jnp.log1p(_NEAR / x**2) * _ratio(x)


def _ratio(x: Array) -> Array:
    """R of the super-Lorentzian, constant outside its table."""
    at = jnp.clip((jnp.log(x) - _LOW) / _STEP, 0, _STEPS)
    piece = jnp.minimum(at.astype(jnp.int32), _STEPS - 1)
    cubic, square, linear, constant = jnp.asarray(_ratio_table(), x.dtype)[:, piece]
    step = at - piece
    ratio: Array = ((cubic * step + square) * step + linear) * step + constant
    return ratio


@functools.cache
def _ratio_table() -> np.ndarray:
    """Cubic pieces of R over log x, powers of the step within a piece from high to low."""
    log_x = np.linspace(_LOW, _HIGH, _STEPS + 1)
    x = np.exp(log_x)
    ratio = _without_decay(x) / np.log1p(_NEAR / x**2)
    spline = CubicSpline(np.arange(_STEPS + 1), ratio, bc_type="clamped")
    return np.asarray(spline.c)


def _without_decay(x: np.ndarray) -> np.ndarray:
    """Super-Lorentzian times exp(x^2 / 2) for T2 = 1, shape (n,), by Gauss-Legendre quadrature.

    The integral over a = 3 u^2 - 1 goes from -1 to 2.  Below ``least`` the exponential is under
    e^-40.  On the positive side log a is the variable, on the negative one sqrt(-log|a|), in which
    both integrands are smooth (from x = 5 nothing is left of it, hence the floor of its width).
    """
    nodes, weights = np.polynomial.legendre.leggauss(60)
    nodes, weights = (nodes + 1) / 2, weights / 2
    x = x[:, None]
    least = 1 / np.sqrt(0.25 + 20 / x**2)

    def decay(a: np.ndarray) -> np.ndarray:
        return np.exp(-2 * x**2 * (1 / a**2 - 0.25))

    width = np.log(2 / least)
    a = least * np.exp(width * nodes)
    positive = width * decay(a) / np.sqrt(1 + a)
    width = np.sqrt(np.maximum(-np.log(least), 1e-12))
    v = width * nodes
    negative = width * decay(np.exp(-(v**2))) * 2 * v / np.sqrt(-np.expm1(-(v**2)))
    return np.asarray(((positive + negative) @ weights) / math.sqrt(6 * math.pi))


LINESHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "lorentzian": lorentzian,
    "superlorentzian": super_lorentzian,
    "gaussian": gaussian,
}
