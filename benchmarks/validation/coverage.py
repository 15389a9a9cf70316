"""Do regions hold the truth as often as they say: `grid`, `psvae`, paper modes, other signals."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jax import numpy as jnp

from benchmarks.validation import bmctool_signals, cases
from cestprep.diagnostics.calibration import (
    coverage,
    gaussian_level,
    gaussian_samples,
    rank_test,
    sbc_ranks,
)
from cestprep.inference import answers, grid, methods, solving, unconstrained
from cestprep.inference.estimate import Estimate, Validity
from cestprep.inference.measured import Measured
from cestprep.inference.network import infer
from cestprep.inference.place import Place
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import voxels_of

LEVELS = np.array([0.5, 0.8, 0.95])
_SAMPLES, _BINS = 99, 20
#: Voxels of the comparisons that are only to show what goes wrong.
_FEW = 1000
Row = dict[str, Any]


def shares(level: np.ndarray, ranks: np.ndarray | None = None) -> Row:
    """A row of the table: regions of 50, 80, 95 %, and the least p of uniform ranks."""
    named = {f"{100 * c:.0f} %": s for c, s in zip(LEVELS, coverage(LEVELS, level), strict=True)}
    row: Row = {"voxels": int(level.size), **{k: float(v) for k, v in named.items()}}
    if ranks is not None:
        row["least p of ranks"] = float(np.min(rank_test(ranks, _SAMPLES, _BINS).p_value))
    return row


def of_grid(problem: InverseProblem, observation: Observation, theta: np.ndarray) -> Row:
    """Coverage and ranks of the reference posterior."""
    voxels = voxels_of(Measured.of(problem, observation))
    found = grid.places(problem, grid.explore_all(problem, voxels), voxels, theta)
    return shares(np.asarray(found.above), _ranks(found))


def _ranks(found: Place) -> np.ndarray:
    """Ranks of truths as if among samples."""
    ranks: np.ndarray = np.clip(np.asarray(found.below) * (_SAMPLES + 1), 0, _SAMPLES).astype(int)
    return ranks


def of_psvae(
    problem: InverseProblem,
    observation: Observation,
    theta: np.ndarray,
    learned: Any,
    visible: np.ndarray,
    *,
    refine: bool,
) -> dict[str, Row]:
    """Coverage of `psvae` above the detection limit and below, and ranks of all voxels.

    Truths chosen by their value have no uniform ranks, however good the posterior.
    """
    measured = Measured.of(problem, observation)
    voxels = voxels_of(measured)
    mean, factor = infer(learned.network, voxels)
    if refine:
        posteriors = answers.local_posteriors(measured, voxels, mean)
        found = answers.places(problem, voxels, posteriors, theta)
        level, ranks = np.asarray(found.above), _ranks(found)
    else:
        u = np.asarray(unconstrained.to_u(problem, jnp.asarray(theta, np.float32)))
        level = gaussian_level(u, mean, factor)
        ranks = sbc_ranks(u, gaussian_samples(mean, factor, _SAMPLES, np.random.default_rng(0)))
    psvae = methods.load("psvae")
    options = dataclasses.replace(psvae.Options(), refine=refine)
    found = solving.estimate(psvae, problem, observation, 0, None, options, learned)
    flagged = found.validity != Validity.OK
    rows = {"": shares(level[visible], ranks)}
    rows[""]["flagged"] = float(flagged[visible].mean())
    if not visible.all():
        rows[", below the limit"] = shares(level[~visible])
        rows[", below the limit"]["flagged"] = float(flagged[~visible].mean())
    return rows


def of_estimate(found: Estimate, theta: np.ndarray) -> Row:
    """Coverage of Gaussians in the parameters themselves, as the papers have them."""
    scale = np.sqrt(np.einsum("iiv->iv", found.covariance))
    correlation = found.covariance / (scale[:, None] * scale)
    factor = np.linalg.cholesky(np.moveaxis(correlation, -1, 0) + 1e-9 * np.eye(len(scale)))
    return shares(gaussian_level(theta / scale, found.mean / scale, np.moveaxis(factor, 0, -1)))


def in_paper_mode(problem: InverseProblem, observation: Observation, theta: np.ndarray) -> Any:
    """Coverage of the published network and reference on the same voxels."""
    rows = {}
    for name in ("psvae", "grid"):
        method = methods.load(name)
        options = dataclasses.replace(method.Options(), paper=True)
        asked = methods.adapted(name, problem, options)
        learned = None
        if methods.trains(method):
            learned = solving.learn(method, asked, observation, options=options)
        found = solving.estimate(method, asked, observation, 0, None, options, learned)
        usable = np.isfinite(found.mean).all(axis=0) & (found.covariance[0, 0] > 0)
        usable &= found.covariance[1, 1] > 0
        rows[f"{name}, paper mode"] = of_estimate(found.take(usable), theta[:, usable])
    return rows


def study(stage: str, snr: float, count: int, seed: int = 3) -> dict[str, Row]:
    """Truths from the prior at one noise level, errors of the maps drawn from their SDs."""
    problem = cases.problem(stage)
    truth = cases.prior(problem, count, seed)
    clean = cases.oracle(problem, truth, f"prior_{stage}_{count}")
    observation = cases.observe(problem, truth, clean, snr, seed + 1)
    visible = truth.theta[0] * truth.theta[1] > cases.DETECTION_LIMIT[stage] * 100 / snr
    learned = solving.learn(methods.load("psvae"), problem, observation)
    rows: dict[str, Row] = {}
    for name, refine in (("psvae transfer", False), ("psvae fit", True)):
        found = of_psvae(problem, observation, truth.theta, learned, visible, refine=refine)
        rows |= {name + rest: row for rest, row in found.items()}
    rows["grid"] = of_grid(problem, observation, truth.theta)
    if snr == 100:
        exact = dataclasses.replace(
            observation, known_covariance=np.zeros_like(observation.known_covariance)
        )
        few = np.arange(min(count, _FEW))
        theta = truth.theta[:, few]
        rows["grid, errors of maps ignored"] = of_grid(problem, exact.take(few), theta)
        rows |= in_paper_mode(problem, observation.take(few), theta)
    return rows


def of_brain(stage: str, count: int = 4000, seed: int = 5, snr: float = 100.0) -> dict[str, Row]:
    """Truths of white and grey matter; of the grid, some of them."""
    problem = cases.problem(stage)
    truth = cases.brain(problem, count, seed)
    observation = cases.observe(problem, truth, cases.engine(problem, truth), snr, seed)
    return _of_both(problem, observation, truth.theta, np.ones(count, bool), "WM and GM")


def of_bmctool(stage: str, count: int = 400, seed: int = 5, snr: float = 100.0) -> dict[str, Row]:
    """Signals of BMCTool."""
    problem, sequence = bmctool_signals.problem(stage)
    truth = bmctool_signals.truth(problem, count, seed)
    clean = bmctool_signals.signals(problem, sequence, truth)
    observation = cases.observe(problem, truth, clean, snr, seed)
    visible = truth.theta[0] * truth.theta[1] > cases.DETECTION_LIMIT[stage]
    return _of_both(problem, observation, truth.theta, visible, "BMCTool")


def _of_both(
    problem: InverseProblem,
    observation: Observation,
    theta: np.ndarray,
    visible: np.ndarray,
    name: str,
) -> dict[str, Row]:
    learned = solving.learn(methods.load("psvae"), problem, observation)
    found = of_psvae(problem, observation, theta, learned, visible, refine=True)
    few = np.arange(min(theta.shape[1], _FEW))
    reference = of_grid(problem, observation.take(few), theta[:, few])
    return {f"psvae fit, {name}": found[""], f"grid, {name}": reference}
