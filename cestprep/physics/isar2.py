"""Solver ``isar2``: the closed-form shortcut of published fits, for comparison with them only.

Water and one pool under spin-locked or continuous-wave saturation: mono-exponential decay with
R1rho during pulses, two-pool exchange between them.  It looks right, and biases fraction and rate
by tens of percent at a residual nobody would question (docs/solvers.rst).

Source: Roeloffs et al., NMR Biomed 28 (2015) 40-53, doi:10.1002/nbm.3192, with the exchange rate of
Zaiss & Bachert, NMR Biomed 26 (2013) 507-518, doi:10.1002/nbm.2887.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from cestprep.physics import bloch
from cestprep.physics.bloch import Field
from cestprep.physics.pools import Parameters, PoolModel
from cestprep.physics.protocol import Block, Protocol, Recovery
from cestprep.physics.reduced import saturation_of
from cestprep.physics.steps import grouped


def preparation_maps(
    model: PoolModel,
    p: Parameters,
    protocol: Protocol,
    preparations: Sequence[tuple[Block, ...]],
    lift: Array,
    n_rows: int,
) -> Array:
    """Maps from water's magnetisation to itself after each preparation.

    Parameters as for `cestprep.physics.general.preparation_maps`, with ``n_rows`` = 1.
    """
    del lift, n_rows
    return grouped(
        list(preparations),
        lambda q: (saturation_of(q).train, q[1:]),
        lambda group: _train_maps(model, p, protocol.frequency_mhz, group),
    )


def _train_maps(
    model: PoolModel,
    p: Parameters,
    frequency_mhz: float,
    preparations: Sequence[tuple[Block, ...]],
) -> Array:
    (pool,) = model.pools
    saturations = [saturation_of(q) for q in preparations]
    k, f = p[f"{pool.name}.k_exchange"], p[f"{pool.name}.fraction"]
    r1, r2 = 1 / p["t1"], 1 / p["t2"]
    b1, offset = [s.b1_ut for s in saturations], [s.offset_ppm for s in saturations]
    field = Field.played(b1, offset, frequency_mhz, p)
    labelled = _labelling(field.w1, field.offset_of(pool, p), k, 1 / p[f"{pool.name}.t2"])
    cos, sin = field.tilt
    r1rho = r1 * cos**2 + r2 * sin**2 + f * k * labelled
    train = saturations[0]
    decay = jnp.exp(-r1rho * train.pulse_duration_s)
    steady = r1 / r1rho * (cos if train.spin_lock == "none" else 1.0)

    def freed(duration_s: float) -> tuple[Array, Array]:
        """Share of water, and of the slow mode, left after free exchange; the pool at psi of it."""
        psi = f * (1 - labelled)
        slow, fast = (jnp.exp(-rate * duration_s) for rate in (r1, r1 + k * (1 + f)))
        return ((1 + psi) * slow + (f - psi) * fast) / (1 + f), slow

    if train.spin_lock == "none":  # only the part along the effective field is left at the end
        slope, constant = cos**2 * decay, steady * cos * (1 - decay)
    else:
        kept, slow = freed(train.pulse_delay_s)
        cycle = decay * kept
        fixed = (steady * (1 - decay) * kept + 1 - slow) / (1 - cycle)
        slope = cycle ** (train.n_pulses - 1) * decay
        end = fixed * (1 - cycle ** (train.n_pulses - 1))
        constant = end * decay + steady * (1 - decay)
    recovery_s = sum(b.duration_s for b in preparations[0] if isinstance(b, Recovery))
    kept, slow = freed(recovery_s)
    constant = kept * constant + 1 - slow
    return jnp.stack([kept * slope, constant * jnp.ones_like(slope)])[None]


def _labelling(w1: Array, offset: Array, k: Array, r2: Array) -> Array:
    """Share of exchanging magnetisation that is saturated (Lorentzian in the offset)."""
    power = w1**2
    width = power * (k + r2) + k * (k + r2) ** 2  # times k: finite where nothing exchanges
    tiny = 1e-12  # its square, which derivatives divide by, is no zero in float32
    height = power / jnp.maximum(power + k * (k + r2), tiny)
    return height * width / jnp.maximum(width + k * offset**2, tiny)


def n_pools_fit(model: PoolModel) -> bool:
    """Whether a pool model has the one pool this solver knows, in balance at each start."""
    return len(model.pools) == 1 and model.pools_rebalance and len(bloch.z_indices(model)) == 2
