"""Random voxels and protocols for tests, in the vocabulary of package and oracle alike."""

from __future__ import annotations

import numpy as np

from cestprep.physics.pools import ExchangingPool, PoolModel
from cestprep.physics.protocol import Protocol, Readout, Recovery, Saturation, Spoil

KIND = {"amide": "cest", "semisolid": "mt"}
B1_UT = [2.0, 0.5, 3.7, 1.2, 0.0, 2.5]
READOUT = {True: (90.0, 1, 0.0), False: (15.0, 45, 0.02837)}


def rows(offsets_ppm, continuous_wave):
    """Volumes: an unsaturated one, then saturations after 15 s and 1 s of recovery."""
    out = [(0.0, None)]
    for i, (offset, b1) in enumerate(zip(offsets_ppm, B1_UT, strict=True)):
        train = (2.5, 1, 0.0, False) if continuous_wave else (0.1, 13, 0.1, True)
        out.append((15.0 if i == 0 else 1.0, (offset, b1, *train)))
    return out


def protocol(volumes, frequency_mhz, readout):
    """The package's protocol of the same volumes."""
    blocks = []
    for recovery, saturation in volumes:
        blocks.append(Recovery(recovery))
        if saturation is not None:
            *numbers, lock = saturation
            blocks += [Saturation(*numbers, "ideal" if lock else "none"), Spoil()]
        blocks.append(Readout(*readout))
    return Protocol(tuple(blocks), frequency_mhz, tuple(s is None for _, s in volumes))


def model(names, **conventions):
    """Pool model with the given pools."""
    return PoolModel(tuple(ExchangingPool(n, KIND[n]) for n in names), **conventions)


def random_voxels(names, count, seed, b0_ppm=0.3):
    """Voxels as the oracle wants them: a list of (water, pools)."""
    rng = np.random.default_rng(seed)
    voxels = []
    for _ in range(count):
        water = {
            "t1": rng.uniform(0.5, 3.5),
            "t2": rng.uniform(0.015, 1.0),
            "b0": rng.uniform(-b0_ppm, b0_ppm),
            "b1": rng.uniform(0.7, 1.3),
        }
        pools = {
            "amide": {"kind": "cest", "f": rng.uniform(0, 0.012), "k": rng.uniform(0, 1000),
                      "t2": 0.04, "shift": 3.5},
            "semisolid": {"kind": "mt", "f": rng.uniform(0, 0.3), "k": rng.uniform(0, 150),
                          "t2": 40e-6, "shift": 0.0},
        }  # fmt: skip
        voxels.append((water, [pools[n] for n in names]))
    return voxels


def parameters(names, voxels, dtype=np.float64):
    """The package's parameters of the same voxels."""
    p = {
        key: np.array([w.get(k, 1.0) for w, _ in voxels], dtype)
        for key, k in (
            ("t1", "t1"),
            ("t2", "t2"),
            ("b0_ppm", "b0"),
            ("b1_scale", "b1"),
            ("m0", "m0"),
        )
    }
    for i, name in enumerate(names):
        for key, k in (
            ("fraction", "f"),
            ("k_exchange", "k"),
            ("t2", "t2"),
            ("offset_ppm", "shift"),
        ):
            p[f"{name}.{key}"] = np.array([pools[i][k] for _, pools in voxels], dtype)
    return p
