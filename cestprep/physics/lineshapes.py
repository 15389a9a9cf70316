"""Absorption lineshapes of the semisolid pool."""

from __future__ import annotations

from collections.abc import Callable

from jax import Array


def lorentzian(offset_rad_s: Array, t2_s: Array) -> Array:
    """Normalised Lorentzian ``g(offset)`` in s: T2 / pi / (1 + (offset T2)^2)."""
    return t2_s / (3.141592653589793 * (1.0 + (offset_rad_s * t2_s) ** 2))


LINESHAPES: dict[str, Callable[[Array, Array], Array]] = {"lorentzian": lorentzian}
