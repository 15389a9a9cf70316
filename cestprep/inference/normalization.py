"""How much a stage's numbers depend on the normalisation: the same voxels under both."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from cestprep.inference import methods
from cestprep.inference.estimate import Estimate
from cestprep.inference.methods import Method
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.recipe import Normalization
from cestprep.inference.solving import estimate as estimate_voxels


@dataclass(frozen=True)
class Comparison:
    """Medians of the free parameters over the same voxels under two normalisations.

    Attributes
    ----------
    n_voxels : int
        Voxels compared, evenly spaced among the valid ones.
    medians : mapping of normalisation to list of float
        In package units, one per free parameter.
    """

    n_voxels: int
    medians: dict[str, list[float]]


def other_normalization(problem: InverseProblem) -> Normalization | None:
    """The normalisation to compare with; None where the series has no reference volume."""
    if not any(problem.protocol.is_m0) or problem.normalization == "free-scale":
        return None
    return "m0" if problem.normalization == "unit-norm" else "unit-norm"


def compare_normalizations(
    problem: InverseProblem,
    observation: Observation,
    estimate: Estimate,
    method: Method,
    options: Any,
    seed: int = 0,
    most_voxels: int = 64,
) -> Comparison | None:
    """Estimate some valid voxels again under the other normalisation.

    Where the method would train a network for it, both are estimated by ``voxelwise``.

    Parameters
    ----------
    problem, observation, estimate
        A stage, its data and its result, for the same voxels.
    method : Method
    options : Options of the method
    seed : int
    most_voxels : int
        Enough for a median known to a few percent at small cost.
    """
    other = other_normalization(problem)
    valid = np.flatnonzero(estimate.valid)
    if other is None or not valid.size:
        return None
    count = min(most_voxels, valid.size)
    chosen = valid[np.linspace(0, valid.size - 1, count).round().astype(int)]
    some, found = observation.take(chosen), estimate.take(chosen)
    if methods.trains(method):  # training again would take longer than the comparison is worth
        method = methods.load("voxelwise")
        options = method.Options()
        found = estimate_voxels(method, problem, some, options=options)
    changed = dataclasses.replace(problem, normalization=other)
    again = estimate_voxels(method, changed, some, seed, options=options)
    both = again.valid & found.valid
    if not both.any():
        return None
    medians: dict[str, list[float]] = {
        problem.normalization: np.median(found.mean[:, both], axis=1).tolist(),
        other: np.median(again.mean[:, both], axis=1).tolist(),
    }
    return Comparison(int(both.sum()), medians)
