"""Are injected faults flagged, and clean voxels not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.validation import cases
from cestprep.inference import methods, solving
from cestprep.inference.estimate import Validity
from cestprep.inference.measured import Measured, misfit_probability
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import departures

FLAGS = (Validity.MISFIT, Validity.NOT_CONVERGED, Validity.OUT_OF_RANGE)
#: Pools the model does not have: offset in ppm, fraction, rate in 1/s.
_POOLS = {
    "salicylate pool": (9.3, 0.003, 500.0),
    "amide pool": (3.5, 0.003, 300.0),
    "fast amine pool, 3 %": (3.0, 0.03, 5500.0),
    "fast amine pool, 1 %": (3.0, 0.01, 5500.0),
    "guanidyl pool": (2.0, 0.003, 300.0),
}
KINDS = {
    "mt": ("salicylate pool", "amide pool"),
    "amide": ("fast amine pool, 3 %", "fast amine pool, 1 %", "guanidyl pool"),
}


def faulty(
    problem: InverseProblem, truth: cases.Truth, observation: Observation, kind: str
) -> Observation:
    """The observation with one fault in all voxels."""
    names = list(problem.known_parameters)
    known = observation.known.copy()
    data = observation.data.copy()
    if kind == "spiked volume":
        data[11] *= 1.4
    elif kind == "T1 +40 %":
        known[names.index("t1")] *= 1.4
    elif kind == "B0 +0.8 ppm":
        known[names.index("b0_ppm")] += 0.8
    else:
        data += cases.engine_with_pool(problem, truth, *_POOLS[kind]) - cases.engine(problem, truth)
    return dataclasses.replace(observation, data=data, known=known)


def auc(clean: np.ndarray, faulty: np.ndarray) -> float:
    """Probability that a faulty voxel scores above a clean one; ties count half."""
    return float(stats.mannwhitneyu(faulty, clean).statistic / (clean.size * faulty.size))


def study(stage: str, count: int = 1000, snr: float = 100.0) -> dict[str, Any]:
    """AUC of the flag's score in `psvae` fits, the share of voxels flagged, and the fault's bias.

    A network of the clean voxels is asked.  The score is how improbable the misfit is; inputs that
    count as out of range score above all others.
    """
    problem = cases.problem(stage)
    truth = cases.brain(problem, count, seed=9)
    observation = cases.observe(problem, truth, cases.engine(problem, truth), snr, seed=10)
    psvae = methods.load("psvae")
    learned = solving.learn(psvae, problem, observation)

    def judged(what: Observation) -> tuple[np.ndarray, float, np.ndarray]:
        found = solving.estimate(psvae, problem, what, learned=learned)
        departure = departures(Measured.of(problem, what), found.mean)
        assert departure is not None
        score = -np.log(np.maximum(misfit_probability(problem, departure), 1e-300))
        score[found.validity == Validity.OUT_OF_RANGE] = np.inf
        flagged = np.isin(found.validity, FLAGS).mean()
        away = (found.mean - truth.theta) / np.sqrt(np.einsum("iiv->iv", found.covariance))
        return score, float(flagged), np.median(away, axis=1)

    clean, share, bias = judged(observation)
    names = [f"bias of {f.name}, SD" for f in problem.free]
    rows: dict[str, Any] = {"clean": {"flagged": share, **dict(zip(names, bias, strict=True))}}
    for kind in (*KINDS[stage], "B0 +0.8 ppm", "T1 +40 %", "spiked volume"):
        score, share, bias = judged(faulty(problem, truth, observation, kind))
        biases = {n: float(b) for n, b in zip(names, bias, strict=True)}
        rows[kind] = {"AUC": auc(clean, score), "flagged": share, **biases}
    return rows
