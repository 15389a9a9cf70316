"""A network of one simulated subject on another: agreement with that subject's own fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from benchmarks.validation import cases
from cestprep.diagnostics.agreement import icc_2_1, map_nrmse, ssim
from cestprep.inference import methods, solving
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.phantom.head import make_head

SHAPE = (64, 72, 1)


def subject(problem: InverseProblem, seed: int) -> tuple[Observation, np.ndarray, np.ndarray]:
    """A slice of a synthetic head: observation, truth and mask."""
    head = make_head(SHAPE, seed)
    named = head.parameters
    theta = np.array([named[f.parameter] for f in problem.free])
    truth = cases.Truth(theta, np.array([named[name] for name in problem.known_parameters]))
    observation = cases.observe(problem, truth, cases.engine(problem, truth), 100.0, seed + 7)
    return observation, theta, head.mask


def study(stage: str) -> dict[str, Any]:
    """ICC(2,1), NRMSE and SSIM of transferred maps against the fit of the subject itself."""
    problem = cases.problem(stage)
    first, _, _ = subject(problem, seed=1)
    second, truth, mask = subject(problem, seed=2)
    psvae = methods.load("psvae")
    theirs, own = (solving.learn(psvae, problem, o) for o in (first, second))
    fit = solving.estimate(psvae, problem, second, learned=own)
    rows = {}
    for name, refine in (("transfer", False), ("transfer+refine", True)):
        options = dataclasses.replace(psvae.Options(), refine=refine)
        found = solving.estimate(psvae, problem, second, 0, None, options, theirs)
        for i, free in enumerate(problem.free):
            maps = []
            for values in (found.mean[i], fit.mean[i]):
                volume = np.zeros(mask.shape)
                volume[mask] = values
                maps.append(volume[..., 0])
            error = found.mean[i] - truth[i]
            rows[f"{free.name}, {name}"] = {
                "ICC": icc_2_1(np.stack([found.mean[i], fit.mean[i]], axis=1)),
                "NRMSE": map_nrmse(found.mean[i], fit.mean[i]),
                "SSIM": ssim(maps[0], maps[1], mask[..., 0]),
                "RMS error to truth": float(np.sqrt(np.mean(error**2)) / free.to_si),
                "of the fit": float(np.sqrt(np.mean((fit.mean[i] - truth[i]) ** 2)) / free.to_si),
            }
    return rows
