"""Pool models: which pools exist and by which convention they exchange.

Numbers that vary from voxel to voxel are not kept here; they travel as a mapping from parameter
name to array (`Parameters`).  Names of the water parameters are in `WATER_PARAMETERS`; every other
pool ``p`` has ``p.fraction``, ``p.k_exchange``, ``p.t2``, ``p.offset_ppm`` and, if it differs from
water's, ``p.t1``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jax import Array

from cestprep.physics.lineshapes import LINESHAPES

Parameters = Mapping[str, Array]

#: Units of every parameter inside the package; keys of pools are given without the pool's name.
WATER_PARAMETERS = {
    "t1": "s",
    "t2": "s",
    "b0_ppm": "ppm",  # water resonates at +b0_ppm of the scanner frequency
    "b1_scale": "1",  # actual over nominal B1
    "m0": "1",  # signal of fully relaxed water
}
POOL_PARAMETERS = {
    "fraction": "1",  # equilibrium magnetisation relative to water's
    "k_exchange": "1/s",  # from the pool to water
    "t1": "s",
    "t2": "s",
    "offset_ppm": "ppm",  # from water, positive downfield
}


@dataclass(frozen=True)
class ExchangingPool:
    """A pool that exchanges with water.

    Attributes
    ----------
    name : str
        Prefix of its parameters.
    kind : {"cest", "mt"}
        ``cest``: a spin pool with transverse magnetisation.  ``mt``: the semisolid pool.
    lineshape : {"lorentzian", "superlorentzian", "gaussian"}
        Absorption lineshape of an ``mt`` pool under the ``z`` convention.

    Raises
    ------
    ValueError
        If the lineshape is not one of `cestprep.physics.lineshapes.LINESHAPES`.
    """

    name: str
    kind: Literal["cest", "mt"]
    lineshape: Literal["lorentzian", "superlorentzian", "gaussian"] = "lorentzian"

    def __post_init__(self) -> None:
        if self.lineshape not in LINESHAPES:
            raise ValueError(
                f"lineshape must be one of {', '.join(LINESHAPES)}, got {self.lineshape!r}"
            )


@dataclass(frozen=True)
class PoolModel:
    """Water and the pools that exchange with it, with the conventions of the simulation.

    Attributes
    ----------
    pools : tuple of ExchangingPool
        Pools besides water; they exchange with water only.
    mt : {"z", "xyz"}
        ``z``: the semisolid pool has longitudinal magnetisation only and is saturated at the rate
        pi w1^2 g(offset).  ``xyz``: full Bloch pool, as in the papers' code, which lets exchange
        drain water transversely (adds f k to water's R2).
    pools_rebalance : bool
        True: after each readout the pools are back in balance with water (papers' convention).
        False: they exchange through readout and recovery.
    b1_scales_readout : bool
        Whether the actual B1 scales the flip angles of the readout.

    Raises
    ------
    ValueError
        If names of pools repeat, ``mt`` is unknown, or a lineshape other than the Lorentzian, the
        only one a full Bloch pool has, is asked for under ``xyz``.
    """

    pools: tuple[ExchangingPool, ...]
    mt: Literal["z", "xyz"] = "z"
    pools_rebalance: bool = True
    b1_scales_readout: bool = True

    def __post_init__(self) -> None:
        names = [pool.name for pool in self.pools]
        if len(set(names)) != len(names):
            raise ValueError(f"pool names must be unique, got {names}")
        if self.mt not in ("z", "xyz"):
            raise ValueError(f"mt must be 'z' or 'xyz', got {self.mt!r}")
        other = [p.name for p in self.pools if p.kind == "mt" and p.lineshape != "lorentzian"]
        if self.mt == "xyz" and other:
            raise ValueError(f"{', '.join(other)}: under mt 'xyz' the lineshape is lorentzian")

    @property
    def spin_pools(self) -> tuple[ExchangingPool, ...]:
        """Pools with transverse magnetisation (water not counted)."""
        return tuple(p for p in self.pools if p.kind == "cest" or self.mt == "xyz")

    @property
    def z_pools(self) -> tuple[ExchangingPool, ...]:
        """Pools with longitudinal magnetisation only."""
        return tuple(p for p in self.pools if p.kind == "mt" and self.mt == "z")

    @property
    def ordered(self) -> tuple[ExchangingPool, ...]:
        """All pools in the order of the state vector."""
        return self.spin_pools + self.z_pools

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of all parameters a simulation needs (``p.t1`` is optional and not listed)."""
        required = [key for key in POOL_PARAMETERS if key != "t1"]
        return (*WATER_PARAMETERS, *(f"{p.name}.{key}" for p in self.pools for key in required))


def parameter_unit(name: str) -> str:
    """Unit of a parameter inside the package; KeyError for an unknown name."""
    return WATER_PARAMETERS[name] if "." not in name else POOL_PARAMETERS[name.split(".")[1]]


def finite_number(value: Any) -> float | None:
    """Number of an entry of a parsed document; None if it is not one or not finite."""
    # YAML 1.1 reads "4e-5" as text
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None
