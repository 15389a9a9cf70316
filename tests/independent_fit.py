"""Multi-start scipy fit of one voxel in float64 on the test oracle; continuous-wave series only."""

from __future__ import annotations

import numpy as np
import oracle
from scipy.linalg import expm
from scipy.optimize import least_squares


def generators(pools, water, f0, saturations):
    """Logarithm-free batch: the oracle's generator of each distinct saturation."""
    made = []
    for offset, b1, duration in saturations:
        made.append(oracle.generator(pools, water, f0, offset, b1) * duration)
    return np.array(made)


def simulate(rows, f0, pools, water, flip_deg):
    """Signal of one voxel; ``rows`` as (recovery, None | (offset, b1, duration))."""
    distinct = list(dict.fromkeys(s for _, s in rows if s is not None))
    maps = expm(generators(pools, water, f0, distinct))
    spins = [q for q in pools if q["kind"] == "cest"]
    ordered = spins + [q for q in pools if q["kind"] != "cest"]
    zs = [3 * i + 2 for i in range(1 + len(spins))]
    zs += [3 * (1 + len(spins)) + i for i in range(len(ordered) - len(spins))]
    equilibrium = np.array([1.0, *(q["f"] for q in ordered)])
    n = maps.shape[-1] - 1
    z, out = 1.0, []
    cosine = np.cos(np.deg2rad(flip_deg) * water["b1"])
    for recovery, saturation in rows:
        z = 1 - (1 - z) * np.exp(-recovery / water["t1"])
        if saturation is not None:
            state = np.zeros(n + 1)
            state[zs], state[n] = z * equilibrium, 1
            z = (maps[distinct.index(saturation)] @ state)[2]
        out.append(z)
        z *= cosine
    return np.array(out)


def fit(rows, f0, pools_of, water, data, bounds, starts, flip_deg=90.0):
    """Best of several starts; returns parameters and unit-norm NRMSE.

    ``pools_of(theta)`` gives the oracle's pools.
    """
    target = data / np.linalg.norm(data)
    low, high = np.array(bounds).T

    def residual(u):
        s = simulate(rows, f0, pools_of(low + u * (high - low)), water, flip_deg)
        return s / np.linalg.norm(s) - target

    best = None
    for start in starts:
        result = least_squares(residual, start, bounds=(0, 1), x_scale=0.1, xtol=1e-10, ftol=1e-10)
        if best is None or result.cost < best.cost:
            best = result
    return low + best.x * (high - low), float(np.sqrt(2 * best.cost))
