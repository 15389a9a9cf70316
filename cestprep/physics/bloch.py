r"""Bloch-McConnell generators in the effective frame of water.

Frequencies are offsets from water, never absolute: 8e8 rad/s has a resolution of 64 rad/s in
float32.  Water and CEST pools are written in the frame tilted about y so that z' lies along
water's effective field (w1, 0, offset): its fast rotation then stands alone in a 2x2 block and the
slow longitudinal mode keeps its precision in float32 over seconds of continuous-wave saturation.
The change of frame is exact.  A semisolid ``xyz`` pool stays in the laboratory frame, its own R2
being faster than any tilt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.physics import affine
from cestprep.physics.constants import GAMMA_RAD_PER_S_UT, ppm_to_rad_per_s
from cestprep.physics.lineshapes import LINESHAPES
from cestprep.physics.pools import ExchangingPool, Parameters, PoolModel

X, Y, Z = 0, 1, 2
Frame = tuple[Array, Array]  # cosine and sine of the tilt about y
Entries = dict[tuple[int, int], Array]


@dataclass(frozen=True)
class Field:
    """Constant radio-frequency field seen by the pools.

    Attributes
    ----------
    w1 : Array
        Actual amplitude in rad/s.
    offset : Array
        RF minus water frequency in rad/s.
    rad_per_ppm : float
        Angular frequency of 1 ppm.
    """

    w1: Array
    offset: Array
    rad_per_ppm: float

    @classmethod
    def of(cls, b1_ut: Array, offset_ppm: Array, frequency_mhz: float, p: Parameters) -> Field:
        """Field at nominal amplitude (uT) and scanner offset (ppm), given B0 and B1 in ``p``."""
        per_ppm = ppm_to_rad_per_s(frequency_mhz)
        return cls(
            w1=b1_ut * GAMMA_RAD_PER_S_UT * p["b1_scale"],
            offset=(offset_ppm - p["b0_ppm"]) * per_ppm,
            rad_per_ppm=per_ppm,
        )

    @classmethod
    def played(
        cls,
        b1_ut: Sequence[float] | np.ndarray,
        offset_ppm: Sequence[float] | np.ndarray,
        frequency_mhz: float,
        p: Parameters,
    ) -> Field:
        """Fields of several pulses (rows) in all voxels (columns)."""
        b1, offset = (jnp.asarray(v, p["t1"].dtype)[:, None] for v in (b1_ut, offset_ppm))
        return cls.of(b1, offset, frequency_mhz, p)

    @property
    def effective(self) -> Array:
        """Effective field at water in rad/s, with the sign of the offset."""
        square = self.w1**2 + self.offset**2
        root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        return jnp.where(self.offset < 0, -root, root)

    @property
    def tilt(self) -> Frame:
        """Cosine (>= 0) and sine of the tilt about y that lays z along the effective field.

        The tilt is acute: at negative offsets z' is antiparallel to the field, as after the tips
        of a spin lock.  Without a field it is 0.
        """
        weff = self.effective
        safe = jnp.where(weff != 0, weff, 1.0)
        return jnp.where(weff != 0, self.offset / safe, 1.0), self.w1 / safe

    def offset_of(self, pool: ExchangingPool, p: Parameters) -> Array:
        """RF minus pool frequency in rad/s."""
        return self.offset - p[f"{pool.name}.offset_ppm"] * self.rad_per_ppm


def n_states(model: PoolModel) -> int:
    """Length of the state vector: x, y, z of water and each spin pool, z of each z pool."""
    return 3 * (1 + len(model.spin_pools)) + len(model.z_pools)


def z_indices(model: PoolModel) -> list[int]:
    """Places of the longitudinal components, water first, in the order of ``model.ordered``."""
    spins = 1 + len(model.spin_pools)
    return [3 * i + Z for i in range(spins)] + [3 * spins + i for i in range(len(model.z_pools))]


def t1_of(pool: ExchangingPool, p: Parameters) -> Array:
    """T1 of a pool in s: its own if given, else water's."""
    return p.get(f"{pool.name}.t1", p["t1"])


def stack_entries(entries: Entries, n: int) -> Array:
    """Generator ``[A | c]`` from its non-zero entries."""
    shape = jnp.broadcast_shapes(*(e.shape for e in entries.values()))
    dtype = next(iter(entries.values())).dtype
    zero = jnp.zeros(shape, dtype)
    rows = [
        jnp.stack([jnp.broadcast_to(entries.get((i, j), zero), shape) for j in range(n + 1)])
        for i in range(n)
    ]
    return jnp.stack(rows)


def add_entry(entries: Entries, i: int, j: int, value: Array) -> None:
    """Add to an entry that may not exist yet."""
    entries[i, j] = entries[i, j] + value if (i, j) in entries else value


def _between(to: Frame, of: Frame) -> Frame:
    """Tilt of one frame against another."""
    return to[0] * of[0] + to[1] * of[1], to[1] * of[0] - to[0] * of[1]


def _add_spin(
    entries: Entries,
    at: int,
    frame: Frame,
    precession: tuple[Array, Array],
    rates: tuple[Array, Array],
    source: tuple[int, Array],
) -> None:
    """Bloch block of one spin pool in a tilted frame.

    ``precession``: components of the field along x' and z' of the frame; ``rates``: total R2 and
    R1 including exchange; ``source``: column and rate of the longitudinal source.
    """
    c, s = frame
    bx, bz = precession
    r2, r1 = rates
    x, y, z = at + X, at + Y, at + Z
    cross = c * s * (r1 - r2)
    add_entry(entries, x, x, -(c * c * r2 + s * s * r1))
    add_entry(entries, z, z, -(s * s * r2 + c * c * r1))
    add_entry(entries, x, z, cross)
    add_entry(entries, z, x, cross)
    add_entry(entries, y, y, -r2)
    for i, j, field in ((x, y, bz), (y, x, -bz), (y, z, bx), (z, y, -bx)):
        add_entry(entries, i, j, field)
    column, rate = source
    add_entry(entries, x, column, -s * rate)
    add_entry(entries, z, column, c * rate)


def _add_transfer(entries: Entries, to: int, of: int, tilt: Frame, rate: Array) -> None:
    """Exchange of all three components from one spin pool into another, tilted by ``tilt``."""
    c, s = tilt
    add_entry(entries, to + X, of + X, c * rate)
    add_entry(entries, to + X, of + Z, -s * rate)
    add_entry(entries, to + Y, of + Y, rate * jnp.ones_like(c))
    add_entry(entries, to + Z, of + X, s * rate)
    add_entry(entries, to + Z, of + Z, c * rate)


def _frame_of(pool: ExchangingPool, water: Frame) -> Frame:
    if pool.kind == "cest":
        return water
    return jnp.ones_like(water[0]), jnp.zeros_like(water[1])


def generator(model: PoolModel, p: Parameters, field: Field) -> Array:
    """Bloch-McConnell generator ``[A | c]`` under a constant field, in tilted frames.

    Returns
    -------
    Array, shape (n, n + 1, ...)
        In 1/s; batch axes as the broadcast of field and parameters.
    """
    return stack_entries(generator_entries(model, p, field), n_states(model))


def generator_entries(model: PoolModel, p: Parameters, field: Field) -> Entries:
    """Non-zero entries of `generator` by row and column, in 1/s."""
    n = n_states(model)
    frame = field.tilt
    entries: Entries = {}
    flux = {q.name: p[f"{q.name}.fraction"] * p[f"{q.name}.k_exchange"] for q in model.pools}
    r2 = 1 / p["t2"] + sum(flux[q.name] for q in model.spin_pools)
    r1 = 1 / p["t1"] + sum(flux[q.name] for q in model.pools)
    zero = jnp.zeros_like(frame[0])
    _add_spin(entries, 0, frame, (zero, field.effective), (r2, r1), (n, 1 / p["t1"]))

    for i, pool in enumerate(model.spin_pools, start=1):
        _add_spin_pool(entries, 3 * i, n, model, pool, p, field)

    c, s = frame
    for i, pool in enumerate(model.z_pools, start=3 * (1 + len(model.spin_pools))):
        k = p[f"{pool.name}.k_exchange"]
        pool_r1 = 1 / t1_of(pool, p)
        shape = LINESHAPES[pool.lineshape](field.offset_of(pool, p), p[f"{pool.name}.t2"])
        add_entry(entries, i, i, -(pool_r1 + k + math.pi * field.w1**2 * shape))
        add_entry(entries, i, n, pool_r1 * p[f"{pool.name}.fraction"])
        add_entry(entries, i, X, -s * flux[pool.name])
        add_entry(entries, i, Z, c * flux[pool.name])
        add_entry(entries, X, i, -s * k)
        add_entry(entries, Z, i, c * k)
    return entries


def _add_spin_pool(
    entries: Entries,
    at: int,
    n: int,
    model: PoolModel,
    pool: ExchangingPool,
    p: Parameters,
    field: Field,
) -> None:
    k, f = p[f"{pool.name}.k_exchange"], p[f"{pool.name}.fraction"]
    own_r1, own_r2 = 1 / t1_of(pool, p), 1 / p[f"{pool.name}.t2"]
    water = field.tilt
    frame = _frame_of(pool, water)
    c, s = frame
    offset = field.offset_of(pool, p)
    along = (c * field.w1 - s * offset, s * field.w1 + c * offset)
    _add_spin(entries, at, frame, along, (own_r2 + k, own_r1 + k), (n, own_r1 * f))
    into_pool = _between(frame, water)
    _add_transfer(entries, at, 0, into_pool, f * k)
    _add_transfer(entries, 0, at, (into_pool[0], -into_pool[1]), k)


def rotate_in(model: PoolModel, field: Field, amap: Array, spin_lock: bool) -> Array:
    """Write a map of tilted-frame numbers as a map of laboratory magnetisation.

    Without spin lock this is the plain change of frame.  With an ideal spin lock the tips before
    and after the pulse are included: every spin pool is turned by water's tilt, so that numbers
    in water's frame stay as they are.
    """
    water = field.tilt
    lab: Frame = (jnp.ones_like(water[0]), jnp.zeros_like(water[1]))
    start = water if spin_lock else lab
    for i, pool in enumerate((None, *model.spin_pools)):
        frame = water if pool is None else _frame_of(pool, water)
        if frame is start:
            continue
        c, s = _between(frame, start)
        amap = _conjugate(amap, 3 * i + X, 3 * i + Z, c, s)
    return amap


def _conjugate(amap: Array, x: int, z: int, c: Array, s: Array) -> Array:
    """R^-1 amap R, with R the rotation of components x and z by the angle (c, s)."""
    cols = amap.at[:, x].set(c * amap[:, x] + s * amap[:, z])
    cols = cols.at[:, z].set(c * amap[:, z] - s * amap[:, x])
    rows = cols.at[x].set(c * cols[x] + s * cols[z])
    return rows.at[z].set(c * cols[z] - s * cols[x])


def turn(model: PoolModel, state: Array, angle: tuple[Array, Array]) -> Array:
    """Rotate all transverse magnetisation about z by an angle given as cosine and sine."""
    c, s = angle
    end = 3 * (1 + len(model.spin_pools))
    x, y = state[X:end:3], state[Y:end:3]
    return state.at[X:end:3].set(c * x - s * y).at[Y:end:3].set(s * x + c * y)


def longitudinal_generator(model: PoolModel, p: Parameters, water_only: bool) -> Array:
    """Free relaxation and exchange of longitudinal magnetisation, in 1/s.

    States: water alone, relaxing as if in balance with its pools, or water and all pools in the
    order of ``model.ordered``.
    """
    if water_only:
        return stack_entries({(0, 0): -1 / p["t1"], (0, 1): 1 / p["t1"]}, 1)
    n = 1 + len(model.pools)
    entries: Entries = {(0, 0): -1 / p["t1"], (0, n): 1 / p["t1"]}
    for i, pool in enumerate(model.ordered, start=1):
        k, f = p[f"{pool.name}.k_exchange"], p[f"{pool.name}.fraction"]
        r1 = 1 / t1_of(pool, p)
        add_entry(entries, 0, 0, -f * k)
        add_entry(entries, 0, i, k)
        add_entry(entries, i, 0, f * k)
        add_entry(entries, i, i, -(r1 + k))
        add_entry(entries, i, n, r1 * f)
    return stack_entries(entries, n)


def constant_field_map(
    model: PoolModel,
    p: Parameters,
    field: Field,
    duration_s: Array | float,
    spin_lock: bool = False,
) -> Array:
    """Map of laboratory magnetisation over a rectangular pulse or a delay (``w1`` = 0)."""
    amap = affine.exponential(generator(model, p, field), duration_s)
    return rotate_in(model, field, amap, spin_lock)
