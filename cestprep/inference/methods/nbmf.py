"""Neural Bloch-McConnell fitting: a network that learns from the measured voxels alone.

The network answers with parameters, the physics turns them into a signal, and what is minimised is
the distance of that signal from the measured one.  Source: Finkelstein 2025, Commun. Phys. 8:164.
Here voxels are weighted by their noise, the box of the parameters is a logistic prior in
unconstrained space, and volumes are simulated one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cestprep.inference import amortized, answers, least_squares, paper, unconstrained
from cestprep.inference.chunks import Progress, phase
from cestprep.inference.estimate import Estimate, Meaning, Validity
from cestprep.inference.fitting import FEWEST_VOXELS, halves, on_device
from cestprep.inference.measured import CUT_GAUSSIAN, LEAST_SQUARES, Measured
from cestprep.inference.network import Network, features, infer
from cestprep.inference.options import within
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import (
    departures,
    estimate_of,
    fit_measured,
    fitted_again,
    voxels_of,
)
from cestprep.inference.training import CHECKS, Part, Schedule, Store, Trained, train

TITLE = "neural Bloch-McConnell fitting"
NEEDS_NOISE = True
PAPER_OPTIONS = frozenset({"paper", "steps", "refine"})


@dataclass(frozen=True)
class Options:
    """How the network is trained and used.

    Attributes
    ----------
    steps : int
    batch : int
        Voxels of a step.
    parameter_noise : float
        SD by which parameters are varied in training, in unconstrained space.
    refine : bool
        Whether each voxel's answer starts a least-squares fit.
    paper : bool
        Network, loss and pairwise simulation as published.
    """

    steps: int = 4000
    batch: int = 512
    parameter_noise: float = 0.05
    refine: bool = False
    paper: bool = False

    def __post_init__(self) -> None:
        within(CHECKS, 1e7, steps=self.steps)
        within(1, 1e5, batch=self.batch)
        within(0, 10, parameter_noise=self.parameter_noise)


def meaning(options: Options) -> Meaning:
    """What means and intervals are."""
    return LEAST_SQUARES if options.refine else Meaning("network's answer", CUT_GAUSSIAN, True)


def adapted(problem: InverseProblem, options: Options) -> InverseProblem:
    """The problem with the paper's ranges and normalisation in its mode."""
    return paper.published_problem(problem, paper.NBMF) if options.paper else problem


def learn(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: Options | None = None,
    store: Store | None = None,
) -> Trained | None:
    """Train on the measured voxels; None where none carries signal."""
    options = options or Options()
    measured = Measured.of(problem, observation)
    if not measured.count:
        return None
    voxels = voxels_of(measured)
    part = Part("own voxels", phase(progress, "training", "steps"), store)
    if options.paper:
        return paper.learn(problem, voxels, paper.NBMF, options.steps, seed, part)
    inputs, p = np.asarray(features(voxels)), len(problem.free)
    network = Network.initial(inputs, p, jax.random.key(seed))
    loss = amortized.signal_loss(problem, options.batch, options.parameter_noise)
    seen, kept = halves(voxels) if measured.count >= FEWEST_VOXELS else [on_device(voxels)] * 2
    schedule = Schedule(options.steps)
    return train(network, loss, seen, kept, schedule, jax.random.key(seed + 1), part)


def estimate(
    problem: InverseProblem,
    observation: Observation,
    seed: int = 0,
    progress: Progress | None = None,
    options: Options | None = None,
    learned: Trained | None = None,
) -> Estimate:
    """What the network says, with the covariance of a least-squares fit there."""
    del seed
    options, measured = options or Options(), Measured.of(problem, observation)
    if learned is None or not measured.count:
        return measured.blank()
    voxels, network = voxels_of(measured), learned.network
    if options.paper:
        theta = paper.infer(problem, network, voxels)[0]
    else:
        theta = np.asarray(unconstrained.to_theta(problem, jnp.asarray(infer(network, voxels)[0])))
    steps = least_squares.Options().max_iterations if options.refine else 0
    settings = least_squares.Options(max_iterations=1 + steps)  # the first only looks
    fit = fit_measured(measured, settings, phase(progress, "fit"), theta)
    codes = {}
    if options.refine:
        fit = _fitted_anew(measured, fit)
        codes[Validity.NOT_CONVERGED] = ~np.asarray(fit.converged)
    elif not options.paper:  # the published network has no statistics of its inputs
        codes[Validity.OUT_OF_RANGE] = answers.outside_range(network, voxels)
    return estimate_of(measured, fit, codes)


def _fitted_anew(measured: Measured, fit: least_squares.Fit) -> least_squares.Fit:
    """The fit, with voxels that misfit or failed fitted again from many places."""
    found = departures(measured, fit.theta)
    if found is None:
        chi2: Any = (np.asarray(fit.residual_norm) / measured.noise) ** 2
    else:
        chi2 = found.distance2
    poor = np.flatnonzero(~np.asarray(fit.converged) | answers.misfits(measured, chi2))
    return fitted_again(measured, fit, poor)
