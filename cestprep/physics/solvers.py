"""Solvers behind one interface, and which of them is good for a problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jax import Array

from cestprep.physics import general, isar2, reduced
from cestprep.physics.constants import GAMMA_RAD_PER_S_UT, ppm_to_rad_per_s
from cestprep.physics.pools import Parameters, PoolModel
from cestprep.physics.protocol import Protocol, Saturation

#: Solvers by name: maps of the carried state by distinct preparations.
SOLVERS: dict[str, Callable[..., Array]] = {
    "general": general.preparation_maps,
    "reduced": reduced.preparation_maps,
    "isar2": isar2.preparation_maps,
}
#: ``reduced`` needs the RF this far from water, in rad/s ...
LEAST_OFFSET_RAD_S = 1800.0
#: ... and this many times as far as all of water's rates together,
LEAST_OFFSET_OVER_RATES = 20.0
#: CEST pools this many times as far from water as they exchange and relax,
LEAST_SHIFT_OVER_RATES = 2.0
#: and, where nothing locks the spins, less than this left of water's transverse magnetisation.
MOST_TRANSVERSE = 3e-4


def unsuitable(solver: str, protocol: Protocol, model: PoolModel) -> str | None:
    """Why a solver cannot be used, whatever the tissue; None where it can.

    Whether it is accurate depends on the voxel: `reduced_is_accurate`.

    Parameters
    ----------
    solver : str
        One of `SOLVERS`.
    protocol, model
    """
    if solver == "general":
        return None
    if solver == "isar2" and not isar2.n_pools_fit(model):
        return "isar2 knows water and one pool in balance with it at the start of each volume"
    if solver == "reduced" and model.mt == "xyz" and any(q.kind == "mt" for q in model.pools):
        return "reduced knows semisolid pools with longitudinal magnetisation only (mt: z)"
    for number, volume in enumerate(protocol.volumes, start=1):
        why = reduced.unplayable(volume.preparation) if volume.preparation else None
        if why:
            return f"{solver} does not play volume {number}: {why}"
    return None


def reduced_is_accurate(
    protocol: Protocol, model: PoolModel, p: Mapping[str, np.ndarray | Array]
) -> np.ndarray:
    """Voxels in which ``reduced`` is within 1e-4 of ``general``.

    The stated test: in every saturated volume the RF is at least `LEAST_OFFSET_RAD_S` and
    `LEAST_OFFSET_OVER_RATES` times water's rates (R1, R2 and exchange out of it) off water's
    resonance; every CEST pool is shifted by at least `LEAST_SHIFT_OVER_RATES` times its own rates;
    and continuous wave leaves at most `MOST_TRANSVERSE` of the transverse magnetisation where
    there are CEST pools.

    Parameters
    ----------
    protocol, model
    p : mapping of str to array, each of shape (V,) or ()
        Concrete values.

    Returns
    -------
    ndarray of bool, shape (V,)
    """
    values = {name: np.asarray(v, np.float64) for name, v in p.items()}
    per_ppm = ppm_to_rad_per_s(protocol.frequency_mhz)
    flux = {q.name: values[f"{q.name}.fraction"] * values[f"{q.name}.k_exchange"]
            for q in model.pools}  # fmt: skip
    with np.errstate(all="ignore"):
        transverse = 1 / values["t2"] + sum(flux[q.name] for q in model.spin_pools)
        rates = 1 / values["t1"] + 1 / values["t2"] + sum(flux.values())
        least = np.maximum(LEAST_OFFSET_RAD_S, LEAST_OFFSET_OVER_RATES * rates)
        good = np.isfinite(rates)
        for q in model.spin_pools:
            own = values[f"{q.name}.k_exchange"] + 1 / values[f"{q.name}.t2"]
            shift = np.abs(values[f"{q.name}.offset_ppm"]) * per_ppm
            good = good & (shift >= LEAST_SHIFT_OVER_RATES * own)
        for s in _saturations(protocol):
            offset = np.abs(s.offset_ppm - values["b0_ppm"]) * per_ppm
            good = good & (offset >= least)
            if s.spin_lock == "none" and model.spin_pools:
                tilt = np.arctan2(s.b1_ut * values["b1_scale"] * GAMMA_RAD_PER_S_UT, offset)
                left = np.sin(tilt) ** 2 * np.exp(-transverse * s.pulse_duration_s)
                good = good & (left <= MOST_TRANSVERSE)
    shape = np.broadcast_shapes(*(v.shape for v in values.values()))
    return np.broadcast_to(good, shape or (1,))


def _saturations(protocol: Protocol) -> list[Saturation]:
    blocks = {b for v in protocol.volumes for b in v.preparation}
    return [b for b in blocks if isinstance(b, Saturation)]


def choose(protocol: Protocol, model: PoolModel, p: Parameters) -> str:
    """``reduced`` where it can be used and is accurate in every voxel, else ``general``."""
    if unsuitable("reduced", protocol, model) is not None:
        return "general"
    return "reduced" if reduced_is_accurate(protocol, model, p).all() else "general"
