"""Independent Bloch-McConnell simulator in float64: laboratory frame, scipy.linalg.expm, loops.

Shares no code with cestprep.  One voxel, one volume, one pulse at a time.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import stats
from scipy.integrate import quad
from scipy.linalg import expm

GAMMA = 2 * np.pi * 42.5764  # rad/(s uT)
CUTOFF = 2 * np.pi * 127.73  # rad/s, of the super-Lorentzian


def super_lorentzian_integral(offset, t2):
    """Morrison and Henkelman's integral over the angle to the field, singular at 0."""

    def integrand(u):
        w = abs(3 * u**2 - 1)
        return np.sqrt(2 / np.pi) * t2 / w * np.exp(-2 * (offset * t2 / w) ** 2) if w else 0.0

    magic = 1 / np.sqrt(3)
    near = min(offset * t2, 0.2)
    edges = pairwise((0, magic - near, magic, magic + near, 1))
    return sum(quad(integrand, *part, epsabs=0, epsrel=1e-9, limit=200)[0] for part in edges)


def super_lorentzian(offset, t2):
    """The integral; below the cut-off at an offset that is never under half of it."""
    d = abs(offset) if abs(offset) >= CUTOFF else (CUTOFF + offset**2 / CUTOFF) / 2
    return super_lorentzian_integral(d, t2)


#: Normalised absorption in s at an offset in rad/s.
LINESHAPES = {
    "lorentzian": lambda offset, t2: stats.cauchy.pdf(offset, scale=1 / t2),
    "gaussian": lambda offset, t2: stats.norm.pdf(offset, scale=1 / t2),
    "superlorentzian": super_lorentzian,
}


def _bloch(a, at, r1, r2, offset, w1):
    a[at, at] -= r2
    a[at + 1, at + 1] -= r2
    a[at + 2, at + 2] -= r1
    a[at, at + 1] += offset
    a[at + 1, at] -= offset
    a[at + 1, at + 2] += w1
    a[at + 2, at + 1] -= w1


def generator(pools, water, f0, offset_ppm, b1_ut, mt="z"):
    """Augmented matrix; state: xyz of water and spin pools, then z of the semisolid pool.

    Of many voxels at once, along the last axis, where the numbers of water are arrays.
    """
    spins = [q for q in pools if q["kind"] == "cest" or mt == "xyz"]
    zonly = [q for q in pools if q["kind"] != "cest" and mt == "z"]
    n = 3 * (1 + len(spins)) + len(zonly)
    a = np.zeros((n + 1, n + 1, *np.shape(water["t1"])))
    w1 = GAMMA * b1_ut * water["b1"]
    dw = 2 * np.pi * f0 * (offset_ppm - water["b0"])
    _bloch(a, 0, 1 / water["t1"], 1 / water["t2"], dw, w1)
    a[2, n] = 1 / water["t1"]
    for i, q in enumerate(spins, start=1):
        at = 3 * i
        r1 = 1 / q.get("t1", water["t1"])
        _bloch(a, at, r1, 1 / q["t2"], dw - 2 * np.pi * f0 * q["shift"], w1)
        a[at + 2, n] = r1 * q["f"]
        for c in range(3):
            a[at + c, at + c] -= q["k"]
            a[c, c] -= q["f"] * q["k"]
            a[c, at + c] += q["k"]
            a[at + c, c] += q["f"] * q["k"]
    for i, q in enumerate(zonly):
        at = 3 * (1 + len(spins)) + i
        r1 = 1 / q.get("t1", water["t1"])
        lineshape = LINESHAPES[q.get("lineshape", "lorentzian")]
        rate = np.pi * w1**2 * lineshape(dw - 2 * np.pi * f0 * q["shift"], q["t2"])
        a[at, at] -= r1 + q["k"] + rate
        a[at, n] = r1 * q["f"]
        a[2, 2] -= q["f"] * q["k"]
        a[2, at] += q["k"]
        a[at, 2] += q["f"] * q["k"]
    return a


def propagator(pools, water, f0, offset_ppm, b1_ut, t, mt="z"):
    return expm(generator(pools, water, f0, offset_ppm, b1_ut, mt) * t)


def tip(n_spins, n, angle):
    """Rotation of all spin pools about y that carries z by ``angle`` towards x."""
    r = np.eye(n + 1)
    c, s = np.cos(angle), np.sin(angle)
    for i in range(n_spins):
        x, z = 3 * i, 3 * i + 2
        r[x, x], r[x, z], r[z, x], r[z, z] = c, s, -s, c
    return r


def signal(rows, f0, pools, water, readout, mt="z", rebalance=True, scale_flip=True):
    """Sampled Mz of water per row.

    ``rows``: (recovery_s, None | (offset_ppm, b1_ut, pulse_s, n, delay_s, lock)) per volume;
    ``readout``: (flip_deg, shots, interval_s).
    """
    spins = [q for q in pools if q["kind"] == "cest" or mt == "xyz"]
    ordered = spins + [q for q in pools if q not in spins]
    n = 3 * (1 + len(spins)) + len(pools) - len(spins)
    zs = [3 * i + 2 for i in range(1 + len(spins))]
    zs += list(range(3 * (1 + len(spins)), n))
    eq = np.array([1.0, *(q["f"] for q in ordered)])

    def free(m, t):
        if rebalance:
            z = 1 - (1 - m[2]) * np.exp(-t / water["t1"])
            out = np.zeros(n + 1)
            out[zs], out[n] = eq * z, 1
            return out
        return propagator(pools, water, f0, 0.0, 0.0, t, mt) @ m

    m = np.zeros(n + 1)
    m[zs], m[n] = eq, 1
    flip_deg, shots, interval = readout
    alpha = np.deg2rad(flip_deg) * (water["b1"] if scale_flip else 1.0)
    out = []
    for recovery, sat in rows:
        m = free(m, recovery)
        if sat is not None:
            offset, b1, pulse, count, delay, lock = sat
            p = propagator(pools, water, f0, offset, b1, pulse, mt)
            g = propagator(pools, water, f0, offset, 0.0, delay, mt)
            if lock:
                dw = 2 * np.pi * f0 * (offset - water["b0"])
                acute = np.copysign(1.0, dw) * GAMMA * b1 * water["b1"]
                r = tip(1 + len(spins), n, np.arctan2(acute, abs(dw)))
                p = r.T @ p @ r
            for i in range(count):
                m = p @ m
                if i < count - 1:
                    m = g @ m
            keep = np.zeros(n + 1)
            keep[[*zs, n]] = m[[*zs, n]]
            m = keep
        out.append(m[2])
        for _ in range(shots):
            for i in range(1 + len(spins)):
                m[3 * i + 2] *= np.cos(alpha)
            m = free(m, interval)
    return np.array(out) * water.get("m0", 1.0)


def exponentials(a):
    """Of a stack of matrices, by scaling and squaring of the Taylor series.

    scipy's takes one small matrix at a time, on which BLAS threads cost a hundred times the work.
    """
    squarings = max(0, int(np.ceil(np.log2(np.abs(a).sum(axis=-1).max() / 0.5))))
    x = a / 2.0**squarings
    total = term = np.broadcast_to(np.eye(a.shape[-1]), a.shape)
    for k in range(1, 16):
        term = term @ x / k
        total = total + term
    for _ in range(squarings):
        total = total @ total
    return total


def signals(rows, f0, pools, water, readout):
    """`signal` of many voxels: the numbers of water and pools are arrays of shape (V,)."""
    spins = [q for q in pools if q["kind"] == "cest"]
    ordered = spins + [q for q in pools if q["kind"] != "cest"]
    n = 3 * (1 + len(spins)) + len(pools) - len(spins)
    zs = [3 * i + 2 for i in range(1 + len(spins))] + list(range(3 * (1 + len(spins)), n))
    ones = np.ones(np.shape(water["t1"]))
    equilibrium = np.stack([ones, *(q["f"] * ones for q in ordered)], axis=-1)
    spin_places = [3 * i for i in range(1 + len(spins))]
    flows = {}

    def flow(offset, b1, t):
        if (offset, b1, t) not in flows:
            a = generator(pools, water, f0, offset, b1)
            flows[offset, b1, t] = exponentials(np.moveaxis(a, -1, 0) * t)
        return flows[offset, b1, t]

    def rotated(state, angle):
        """Every spin pool turned about y, from x towards z."""
        c, s = np.cos(angle), np.sin(angle)
        out = state.copy()
        for x in spin_places:
            out[:, x] = c * state[:, x] + s * state[:, x + 2]
            out[:, x + 2] = c * state[:, x + 2] - s * state[:, x]
        return out

    def saturated(z, offset, b1, pulse, count, delay, lock):
        state = np.zeros((len(ones), n + 1))
        state[:, zs], state[:, n] = z[:, None] * equilibrium, 1
        dw = 2 * np.pi * f0 * (offset - water["b0"])
        tilt = np.arctan2(np.copysign(1.0, dw) * GAMMA * b1 * water["b1"], abs(dw)) * lock
        for i in range(count):
            state = rotated(state, tilt)
            state = np.einsum("vij,vj->vi", flow(offset, b1, pulse), state)
            state = rotated(state, -tilt)
            if i < count - 1:
                state = np.einsum("vij,vj->vi", flow(offset, 0.0, delay), state)
        return state[:, 2]

    def recovered(z, t):
        return 1 - (1 - z) * np.exp(-t / water["t1"])

    flip_deg, shots, interval = readout
    cosine = np.cos(np.deg2rad(flip_deg) * water["b1"])
    z, out = ones, []
    for recovery, saturation in rows:
        z = recovered(z, recovery)
        if saturation is not None:
            z = saturated(z, *saturation)
        out.append(z)
        for _ in range(shots):
            z = recovered(cosine * z, interval)
    return np.array(out) * water.get("m0", 1.0)


def played(events, f0, pools, water, mt="z"):
    """Sampled Mz of water over a list of events, in the frame of the scanner frequency.

    Events: ("rf", b1_ut, offset_hz, phase_rad, s) with the phase of B1 as the event begins,
    ("rest", s), ("spoil",) and ("read",).  Pools exchange at all times.
    """
    spins = 1 + sum(q["kind"] == "cest" or mt == "xyz" for q in pools)
    n = 3 * spins + len(pools) - spins + 1
    transverse = [3 * i + c for i in range(spins) for c in (0, 1)]
    flows = {}

    def flow(offset_hz, b1_ut, t):
        key = offset_hz, b1_ut, t
        if key not in flows:
            flows[key] = propagator(pools, water, f0, offset_hz / f0, b1_ut, t, mt)
        return flows[key]

    m = np.zeros(n + 1)
    ordered = sorted(pools, key=lambda q: q["kind"] != "cest" and mt == "z")
    m[[3 * i + 2 for i in range(spins)]] = [1.0, *(q["f"] for q in ordered[: spins - 1])]
    m[3 * spins : n] = [q["f"] for q in ordered[spins - 1 :]]
    m[n] = 1.0
    out = []
    for kind, *numbers in events:
        if kind == "rf":
            b1_ut, offset_hz, phase, t = numbers
            m = turned(spins, n, -phase) @ m
            m = flow(offset_hz, b1_ut, t) @ m
            m = turned(spins, n, phase + 2 * np.pi * offset_hz * t) @ m
        elif kind == "rest":
            m = flow(0.0, 0.0, *numbers) @ m
        elif kind == "spoil":
            m[transverse] = 0.0
        else:
            out.append(m[2])
    return np.array(out)


def turned(n_spins, n, angle):
    """Rotation of all spin pools about z from x towards y, where higher frequencies go."""
    r = np.eye(n + 1)
    c, s = np.cos(angle), np.sin(angle)
    for x in range(0, 3 * n_spins, 3):
        r[x : x + 2, x : x + 2] = [[c, -s], [s, c]]
    return r
