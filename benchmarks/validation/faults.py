"""Are injected faults flagged, and clean voxels not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from benchmarks.validation import cases
from cestprep.inference import methods, solving
from cestprep.inference.estimate import Validity
from cestprep.inference.measured import Measured
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import distances

FLAGS = (Validity.MISFIT, Validity.NOT_CONVERGED, Validity.OUT_OF_RANGE)


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
    else:  # an amine pool nobody asked for, where the amide stage looks, or an rNOE under MT
        other = cases.engine_with_extra_pool(problem, truth)
        data += other - cases.engine(problem, truth)
    return dataclasses.replace(observation, data=data, known=known)


def auc(clean: np.ndarray, faulty: np.ndarray) -> float:
    """Probability that a faulty voxel scores above a clean one."""
    order = np.argsort(np.concatenate([clean, faulty]))
    ranks = np.empty(order.size)
    ranks[order] = np.arange(1, order.size + 1)
    excess = ranks[clean.size :].sum() - faulty.size * (faulty.size + 1) / 2
    return float(excess / (clean.size * faulty.size))


def study(stage: str, count: int = 1000, snr: float = 100.0) -> dict[str, Any]:
    """AUC of the misfit of `psvae` fits, and the share of voxels flagged."""
    problem = cases.problem(stage)
    truth = cases.brain(problem, count, seed=9)
    observation = cases.observe(problem, truth, cases.engine(problem, truth), snr, seed=10)
    psvae = methods.load("psvae")
    learned = solving.learn(psvae, problem, observation)

    def flagged(what: Observation) -> tuple[np.ndarray, float]:
        found = solving.estimate(psvae, problem, what, learned=learned)
        score = distances(Measured.of(problem, what), found.mean)
        assert score is not None
        return score, float(np.isin(found.validity, FLAGS).mean())

    clean, share = flagged(observation)
    rows: dict[str, Any] = {"clean": {"flagged": share}}
    for kind in ("extra pool", "B0 +0.8 ppm", "T1 +40 %", "spiked volume"):
        score, share = flagged(faulty(problem, truth, observation, kind))
        rows[kind] = {"AUC": auc(clean, score), "flagged": share}
    return rows
