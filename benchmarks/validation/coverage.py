"""Do regions hold the truth as often as they say: `grid`, `psvae` fit, paper mode."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jax import numpy as jnp

from benchmarks.validation import cases
from cestprep.diagnostics.calibration import (
    coverage,
    gaussian_level,
    gaussian_samples,
    rank_test,
    sbc_ranks,
)
from cestprep.inference import answers, grid, methods, solving, unconstrained
from cestprep.inference.likelihood import Voxels
from cestprep.inference.measured import Measured
from cestprep.inference.network import infer
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import voxels_of

LEVELS = np.array([0.5, 0.8, 0.95])
_SAMPLES, _BINS = 99, 20


def grid_levels(problem: InverseProblem, observation: Observation, theta: np.ndarray) -> np.ndarray:
    """Posterior mass denser than the truth, shape (V,)."""
    voxels = voxels_of(Measured.of(problem, observation))
    found = grid.explore_all(problem, voxels)
    mass = np.empty(theta.shape[1])
    for curved in (False, True):
        chosen = np.flatnonzero(np.asarray(found.curved) == curved)
        layout = grid.Layout(problem, grid.FINAL_CELLS[2], curved)
        for start in range(0, chosen.size, 64):
            some = chosen[start : start + 64]
            padded = np.resize(some, 64)
            mass[some] = np.asarray(
                grid.mass_above(
                    layout,
                    grid.Box(jnp.asarray(found.low[:, padded]), jnp.asarray(found.high[:, padded])),
                    Voxels(*(jnp.asarray(np.asarray(x)[..., padded]) for x in voxels)),
                    jnp.asarray(theta[:, padded], np.float32),
                )
            )[: some.size]
    return mass


def gaussian_posterior(
    problem: InverseProblem, observation: Observation, learned: Any, *, refine: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unconstrained mean and factor of every voxel, and who was refined well."""
    measured = Measured.of(problem, observation)
    voxels = voxels_of(measured)
    mean, factor = infer(learned.network, voxels)
    if not refine:
        return mean, factor, np.ones(mean.shape[1], bool)
    mode, local = answers.local_posteriors(measured, voxels, mean)
    return local.u_mean, local.u_factor, mode.converged


def study(stage: str, snr: float, count: int, grid_count: int, seed: int = 3) -> dict[str, Any]:
    """Coverage and ranks at one noise level; auxiliary errors drawn from their SDs."""
    problem = cases.problem(stage)
    truth = cases.prior(problem, count, seed)
    clean = cases.oracle(problem, truth, f"prior_{stage}_{count}")
    observation = cases.observe(problem, truth, clean, snr, seed + 1)
    flux = truth.theta[0] * truth.theta[1]
    visible = flux > cases.DETECTION_LIMIT[stage] * 100 / snr
    psvae = methods.load("psvae")
    learned = solving.learn(psvae, problem, observation)
    u = np.asarray(unconstrained.to_u(problem, jnp.asarray(truth.theta, np.float32)))
    rows: dict[str, Any] = {"visible": float(visible.mean())}
    for name, refine in (("psvae transfer", False), ("psvae fit", True)):
        mean, factor, fine = gaussian_posterior(problem, observation, learned, refine=refine)
        level = gaussian_level(u, mean, factor)
        samples = gaussian_samples(mean, factor, _SAMPLES, np.random.default_rng(0))
        keep = visible & fine
        test = rank_test(sbc_ranks(u[:, keep], samples[:, :, keep]), _SAMPLES, _BINS)
        rows[name] = {
            "visible": coverage(LEVELS, level[keep]).tolist(),
            "all": coverage(LEVELS, level).tolist(),
            "p of ranks": np.asarray(test.p_value).tolist(),
        }
    some = observation.take(np.arange(grid_count))
    level = grid_levels(problem, some, truth.theta[:, :grid_count])
    rows["grid"] = {"all": coverage(LEVELS, level).tolist(), "voxels": grid_count}
    exact = dataclasses.replace(some, known_covariance=np.zeros_like(some.known_covariance))
    level = grid_levels(problem, exact, truth.theta[:, :grid_count])
    rows["grid, errors of maps ignored"] = {"all": coverage(LEVELS, level).tolist()}
    return rows
