"""Does the network's posterior agree with the reference grid's, transferred and refined."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from benchmarks.validation import cases
from cestprep.diagnostics.agreement import mahalanobis_both_ways
from cestprep.inference import methods, solving
from cestprep.inference.estimate import Estimate
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


def three_ways(
    problem: InverseProblem, seen: Observation, held_out: Observation, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Train ``psvae`` on some voxels, compare it on others with the grid."""
    psvae, grid = methods.load("psvae"), methods.load("grid")
    learned = solving.learn(psvae, problem, seen, seed)
    reference = solving.estimate(grid, problem, held_out)
    results = {}
    for mode, refine in (("transfer", False), ("transfer+refine", True)):
        options: Any = dataclasses.replace(psvae.Options(), refine=refine)
        found = solving.estimate(psvae, problem, held_out, seed, None, options, learned)
        results[mode] = compare(found, reference)
    return results


def simulated(stage: str, count: int, seed: int = 1, snr: float = 100.0) -> Any:
    """Held-out voxels of a simulated brain, maps exact, as the papers' grid has them."""
    problem = cases.problem(stage)
    truth = cases.brain(problem, 20_000, seed)
    seen = cases.observe(problem, truth, cases.engine(problem, truth), snr, seed, propagate=False)
    other = cases.brain(problem, count, seed + 100)
    clean = cases.oracle(problem, other, f"brain_{stage}_{count}")
    held_out = cases.observe(problem, other, clean, snr, seed + 200, propagate=False)
    return three_ways(problem, seen, held_out)
