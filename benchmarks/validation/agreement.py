"""Does the network's posterior agree with the reference grid's, transferred and refined."""

from __future__ import annotations

import dataclasses
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax import numpy as jnp

from benchmarks.validation import averaged, cases
from cestprep.diagnostics.agreement import mahalanobis_both_ways
from cestprep.inference import fitting, methods, solving
from cestprep.inference.estimate import Estimate
from cestprep.inference.network import Network
from cestprep.inference.problem import InverseProblem, Observation


def compare(found: Estimate, grid: Estimate) -> dict[str, float]:
    """Numbers of Table I of arXiv 2602.03317 for voxels valid by both."""
    both = found.valid & grid.valid
    a, b = found.take(both), grid.take(both)
    there, back = mahalanobis_both_ways(a.mean, a.covariance, b.mean, b.covariance)
    return {
        "voxels": int(both.sum()),
        "valid": float(found.valid.mean()),
        "median there": float(np.median(there)),
        "median back": float(np.median(back)),
        "above 4 there": float((there > 4).mean()),
        "above 4 back": float((back > 4).mean()),
        "NRMSE": float(a.nrmse.mean()),
        "NRMSE ratio": float(a.nrmse.mean() / b.nrmse.mean()),
        "NRMSE correlation": float(np.corrcoef(a.nrmse, b.nrmse)[0, 1]),
    }


class DiagonalNetwork(Network):
    """The same without correlations."""

    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and a factor without entries off its diagonal."""
        mean, factor = super().__call__(inputs)
        return mean, factor * jnp.eye(len(mean))


def transferred_and_refined(
    problem: InverseProblem,
    seen: Observation,
    held_out: Observation,
    reference: Estimate,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Train ``psvae`` on some voxels, compare it on others with a reference."""
    psvae = methods.load("psvae")
    learned = solving.learn(psvae, problem, seen, seed)
    results = {}
    for mode, refine in (("transfer", False), ("transfer+refine", True)):
        options: Any = dataclasses.replace(psvae.Options(), refine=refine)
        found = solving.estimate(psvae, problem, held_out, seed, None, options, learned)
        results[mode] = compare(found, reference)
    return results


def _voxels(
    stage: str, count: int, seed: int, snr: float, propagate: bool
) -> tuple[InverseProblem, Observation, Observation]:
    problem = cases.problem(stage)
    truth = cases.brain(problem, 20_000, seed)
    clean = cases.engine(problem, truth)
    seen = cases.observe(problem, truth, clean, snr, seed, propagate=propagate)
    other = cases.brain(problem, count, seed + 100)
    clean = cases.oracle(problem, other, f"brain_{stage}_{count}")
    return problem, seen, cases.observe(problem, other, clean, snr, seed + 200, propagate=propagate)


def simulated(stage: str, count: int, seed: int = 1, snr: float = 100.0) -> Any:
    """Held-out voxels of a simulated brain, maps exact, as the papers' grid has them."""
    problem, seen, held_out = _voxels(stage, count, seed, snr, propagate=False)
    reference = solving.estimate(methods.load("grid"), problem, held_out)
    rows = transferred_and_refined(problem, seen, held_out, reference)
    with mock.patch.object(fitting, "Network", DiagonalNetwork):
        diagonal = transferred_and_refined(problem, seen, held_out, reference)
    return rows | {"transfer, without correlations": diagonal["transfer"]}


def propagated(stage: str, count: int = 200, seed: int = 1, snr: float = 100.0) -> Any:
    """The same with errors of the maps, beside a grid averaged over draws of the maps."""
    problem, seen, held_out = _voxels(stage, count, seed, snr, propagate=True)
    reference = solving.estimate(methods.load("grid"), problem, held_out)
    average = averaged.posterior(problem, held_out, reference)
    reference = dataclasses.replace(reference, mean=average.mean, covariance=average.covariance)
    rows = transferred_and_refined(problem, seen, held_out, reference)
    for row in rows.values():
        row["effective draws"] = float(np.median(average.effective))
    return rows
