"""Inverse problems and noisy observations for tests."""

from __future__ import annotations

import jax
import numpy as np

from cestprep.data import load_recipe
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.recipe import Recipe
from cestprep.phantom.protocols import fingerprinting_protocol

OFFSETS = {"mt": (6.0, 14.0), "amide": (3.5, 3.5)}


def recipe(name="mouse-7t", **conventions):
    raw = load_recipe(name)
    raw["conventions"] = {**raw["conventions"], **conventions}
    return Recipe.from_mapping(raw)


def problem(stage="mt", *, pulsed=False, frequency_mhz=298.03, **conventions):
    r = recipe(**conventions)
    chosen = next(s for s in r.stages if s.name == stage)
    return InverseProblem.of_stage(
        r, chosen, fingerprinting_protocol(OFFSETS[stage], frequency_mhz, pulsed)
    )


def known(problem, n, seed=0, **values):
    """Plausible known parameters, shape (q, n); keywords fix some of them."""
    rng = np.random.default_rng(seed)
    draw = {
        "t1": rng.uniform(1.2, 2.0, n),
        "t2": rng.uniform(0.04, 0.09, n),
        "b0_ppm": rng.uniform(-0.1, 0.1, n),
        "b1_scale": rng.uniform(0.9, 1.1, n),
        "semisolid.fraction": rng.uniform(0.06, 0.14, n),
        "semisolid.k_exchange": rng.uniform(25, 50, n),
    }
    draw |= {k: np.full(n, v) for k, v in values.items()}
    return np.array([draw[name] for name in problem.known_parameters])


def observe(problem, theta, values, sd, seed=1, covariance=None):
    """Gaussian noise of a given SD on the simulated signal."""
    clean = np.asarray(jax.jit(problem.signal)(theta.astype(np.float32), values.astype(np.float32)))
    noisy = clean + sd * np.random.default_rng(seed).standard_normal(clean.shape)
    q = len(values)
    covariance = np.zeros((q, q, values.shape[1])) if covariance is None else covariance
    return Observation(noisy, values, covariance)
