"""Frozen yardstick of forward.py: the plain way to simulate, with no idea of ours in it.

Water, amide and a semisolid pool with transverse magnetisation, 9x9 and a constant, in the
laboratory frame: `jax.scipy.linalg.expm` per pulse and gap, tips as rotations, volume by volume.
It imports nothing of the package, so that it stays what it is; do not make it faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

GAMMA_RAD_PER_S_UT = 2 * math.pi * 42.5764
PULSE_S, GAP_S, N_PULSES = 0.1, 0.1, 13
FLIP_DEG, SHOTS, SHOT_INTERVAL_S = 15.0, 45, 0.02837


def generator(w1: Array, offset: Array, p: Mapping[str, Array], rad_per_ppm: float) -> Array:
    """Bloch-McConnell matrix of one voxel, with the source as tenth column."""
    f = jnp.stack([jnp.ones_like(p["t1"]), p["amide.fraction"], p["semisolid.fraction"]])
    k = jnp.stack([0 * p["t1"], p["amide.k_exchange"], p["semisolid.k_exchange"]])
    shifts = jnp.stack([0 * p["t1"], p["amide.offset_ppm"], p["semisolid.offset_ppm"]])
    r2 = 1 / jnp.stack([p["t2"], p["amide.t2"], p["semisolid.t2"]])
    r1 = 1 / p["t1"]
    out = jnp.stack([jnp.sum(f * k), k[1], k[2]])
    d = offset - (p["b0_ppm"] + shifts) * rad_per_ppm
    a = jnp.zeros((10, 10), r1.dtype)
    for i in range(3):
        x, y, z = 3 * i, 3 * i + 1, 3 * i + 2
        a = a.at[x, x].add(-r2[i] - out[i]).at[y, y].add(-r2[i] - out[i])
        a = a.at[z, z].add(-r1 - out[i]).at[z, 9].add(r1 * f[i])
        a = a.at[x, y].add(d[i]).at[y, x].add(-d[i]).at[y, z].add(w1).at[z, y].add(-w1)
        if i:
            for j in range(3):
                a = a.at[j, x + j].add(k[i]).at[x + j, j].add(f[i] * k[i])
    return a


def _tips(w1: Array, offset: Array) -> Array:
    """Rotation of all pools by water's tilt, which is acute."""
    effective = jnp.hypot(w1, offset) * jnp.where(offset < 0, -1, 1)
    c, s = offset / effective, w1 / effective
    eye = jnp.eye(10, dtype=w1.dtype)
    for x, z in ((0, 2), (3, 5), (6, 8)):
        eye = eye.at[x, x].set(c).at[x, z].set(s).at[z, x].set(-s).at[z, z].set(c)
    return eye


def _readout(z: Array, t1: Array, recovery_s: Array | float) -> Array:
    cos, decay = math.cos(math.radians(FLIP_DEG)), jnp.exp(-SHOT_INTERVAL_S / t1)
    z = jax.lax.fori_loop(0, SHOTS, lambda _, z: 1 - (1 - z * cos) * decay, z)
    return 1 - (1 - z) * jnp.exp(-recovery_s / t1)


def _voxel(b1_ut: Array, offset_ppm: Array, rad_per_ppm: float, p: Mapping[str, Array]) -> Array:
    one = jnp.ones_like(p["t1"])
    balance = jnp.stack([one, p["amide.fraction"], p["semisolid.fraction"]])

    def volume(z: Array, played: tuple[Array, Array]) -> tuple[Array, Array]:
        b1, ppm = played
        w1, offset = b1 * GAMMA_RAD_PER_S_UT * p["b1_scale"], ppm * rad_per_ppm
        tips = _tips(w1, offset - p["b0_ppm"] * rad_per_ppm)
        pulse = tips.T @ jax.scipy.linalg.expm(generator(w1, offset, p, rad_per_ppm) * PULSE_S)
        pulse = pulse @ tips
        gap = jax.scipy.linalg.expm(generator(0 * w1, offset, p, rad_per_ppm) * GAP_S)
        state = jnp.zeros(10, one.dtype).at[2:9:3].set(balance * z).at[9].set(1)
        state = jax.lax.fori_loop(0, N_PULSES - 1, lambda _, m: gap @ (pulse @ m), state)
        sampled = (pulse @ state)[2]
        return _readout(sampled, p["t1"], 1.0), sampled

    start = _readout(one, p["t1"], 15.0)
    z = jax.lax.scan(volume, start, (b1_ut, offset_ppm))[1]
    return jnp.concatenate([one[None], z])


def signal(
    b1_ut: Sequence[float],
    offset_ppm: Sequence[float],
    frequency_mhz: float,
    p: Mapping[str, Array],
) -> Array:
    """An M0 volume and the saturated ones, shape (1 + n, V); every parameter of shape (V,)."""
    dtype = p["t1"].dtype
    b1, offset = jnp.asarray(b1_ut, dtype), jnp.asarray(offset_ppm, dtype)
    rad_per_ppm = 2 * math.pi * frequency_mhz
    return jax.vmap(lambda q: _voxel(b1, offset, rad_per_ppm, q), out_axes=1)(dict(p))
