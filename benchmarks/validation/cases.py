"""Simulated voxels with known truth, for every study of `benchmarks/validate.py`.

Signals come from the engine, or from the independent oracle of the tests, whose results are kept in
``build/validate`` since they take minutes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from cestprep.data import load_recipe
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.recipe import Recipe
from cestprep.phantom.protocols import fingerprinting_protocol
from cestprep.phantom.sampler import draw_prior, draw_tissue
from cestprep.physics.pools import ExchangingPool
from cestprep.physics.protocol import Readout, Recovery, Saturation

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "validate"
sys.path.insert(0, str(ROOT / "tests"))
OFFSETS_PPM = {"mt": (6.0, 14.0), "amide": (3.5, 3.5)}
#: SDs of the maps' errors, relative and absolute: what fits of relaxometry at SNR 70 leave, and
#: twice what WASABI does.
RELATIVE = {"t1": 0.027, "t2": 0.027, "semisolid.fraction": 0.05, "semisolid.k_exchange": 0.08}
ABSOLUTE = {"b0_ppm": 0.006, "b1_scale": 0.005}
#: Voxels with less exchange than this (fraction times rate, 1/s) are apart: nothing can be told.
DETECTION_LIMIT = {"mt": 0.25, "amide": 0.04}


def problem(stage: str, recipe: str = "brain-3t") -> InverseProblem:
    """A stage of a packaged recipe with the generated protocol, pulsed at 3 T."""
    whole = Recipe.from_mapping(load_recipe(recipe))
    chosen = next(s for s in whole.stages if s.name == stage)
    pulsed = whole.field_t < 4
    protocol = fingerprinting_protocol(OFFSETS_PPM[stage], 127.73 if pulsed else 298.03, pulsed)
    return dataclasses.replace(
        InverseProblem.of_stage(whole, chosen, protocol), solver="reduced" if pulsed else "general"
    )


@dataclass(frozen=True)
class Truth:
    """True parameters of voxels: free ones ``(p, V)`` and known ones ``(q, V)``."""

    theta: np.ndarray
    known: np.ndarray


def brain(problem: InverseProblem, count: int, seed: int) -> Truth:
    """Voxels of a brain."""
    named = draw_tissue(count, np.random.default_rng(seed))
    free = np.array([named[f.parameter] for f in problem.free])
    return Truth(free, np.array([named[name] for name in problem.known_parameters]))


def prior(problem: InverseProblem, count: int, seed: int) -> Truth:
    """Free parameters from the recipe's prior, the rest as in a brain."""
    rng = np.random.default_rng(seed)
    named = draw_tissue(count, rng)
    return Truth(
        draw_prior(problem, count, rng),
        np.array([named[name] for name in problem.known_parameters]),
    )


def engine(problem: InverseProblem, truth: Truth) -> np.ndarray:
    """Signals of the package's own simulator, shape (n, V)."""
    run = jax.jit(problem.signal)
    size, total = 4096, truth.theta.shape[1]
    parts = []
    for start in range(0, total, size):
        index = np.minimum(np.arange(start, start + size), total - 1)
        theta, known = (x[:, index].astype(np.float32) for x in (truth.theta, truth.known))
        parts.append(np.asarray(run(theta, known))[:, : total - start])
    return np.concatenate(parts, axis=1)


def engine_with_pool(
    problem: InverseProblem, truth: Truth, offset_ppm: float, fraction: float, k_exchange: float
) -> np.ndarray:
    """Signals with one more CEST pool than the model has."""
    extra = ExchangingPool("extra", "cest")
    values = {"fraction": fraction, "k_exchange": k_exchange, "t2": 0.02, "offset_ppm": offset_ppm}
    more = dataclasses.replace(
        problem,
        model=dataclasses.replace(problem.model, pools=(*problem.model.pools, extra)),
        constants=(*problem.constants, *((f"extra.{k}", v) for k, v in values.items())),
        solver="general",
    )
    return engine(more, truth)


def oracle(problem: InverseProblem, truth: Truth, name: str) -> np.ndarray:
    """Signals of the tests' independent float64 simulator, kept for the same question."""
    import oracle as independent

    asked = hashlib.sha256(repr((problem.protocol, problem.model, problem.constants)).encode())
    for array in (truth.theta, truth.known):
        asked.update(np.ascontiguousarray(array).tobytes())
    path = BUILD / f"oracle_{name}_{asked.hexdigest()[:12]}.npy"
    if path.exists():
        kept: np.ndarray = np.load(path)
        return kept
    rows, recovery, saturation, readout = [], 0.0, None, None
    for block in problem.protocol.blocks:
        if isinstance(block, Recovery):
            recovery += block.duration_s
        elif isinstance(block, Saturation):
            lock = block.spin_lock == "ideal"
            saturation = (block.offset_ppm, block.b1_ut, block.pulse_duration_s, block.n_pulses,
                          block.pulse_delay_s, lock)  # fmt: skip
        elif isinstance(block, Readout):
            rows.append((recovery, saturation))
            readout = (block.flip_angle_deg, block.n_shots, block.shot_interval_s)
            recovery, saturation = 0.0, None
    named = dict(zip(problem.known_parameters, truth.known, strict=True)) | dict(problem.constants)
    named |= {f.parameter: truth.theta[i] for i, f in enumerate(problem.free)}
    water = {"t1": named["t1"], "t2": named["t2"], "b0": named["b0_ppm"], "b1": named["b1_scale"]}
    pools = [
        {"kind": pool.kind, "f": named[f"{pool.name}.fraction"],
         "k": named[f"{pool.name}.k_exchange"], "t2": named[f"{pool.name}.t2"],
         "shift": named[f"{pool.name}.offset_ppm"]}
        for pool in problem.model.ordered
    ]  # fmt: skip
    found = np.asarray(independent.signals(rows, problem.protocol.frequency_mhz, pools, water,
                                           readout))  # fmt: skip
    found = found if found.shape[0] == len(rows) else found.T
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, found)
    return found


def observe(
    problem: InverseProblem,
    truth: Truth,
    clean: np.ndarray,
    snr: float,
    seed: int,
    propagate: bool = True,
) -> Observation:
    """Noisy signals (SNR: M0 over the SD of a volume), and maps with errors of the stated SDs.

    Without ``propagate`` the maps are exact and count as such.
    """
    rng = np.random.default_rng(seed)
    names, count = problem.known_parameters, truth.known.shape[1]
    relative = np.array([RELATIVE.get(n, 0.0) for n in names])[:, None]
    absolute = np.array([ABSOLUTE.get(n, 0.0) for n in names])[:, None]
    sd = (relative * np.abs(truth.known) + absolute) * propagate
    known = truth.known + sd * rng.standard_normal(sd.shape)
    return Observation(
        clean + rng.standard_normal(clean.shape) / snr,
        known,
        np.einsum("iv,ij->ijv", sd**2, np.eye(len(names))),
        np.full(count, 1 / snr),
        "option",
    )
