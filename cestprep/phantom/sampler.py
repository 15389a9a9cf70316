"""Draws of tissue parameters and of what is known about voxels, for training and calibration."""

from __future__ import annotations

import numpy as np

from cestprep.inference.likelihood import Voxels
from cestprep.inference.problem import InverseProblem
from cestprep.inference.recipe import physical_limits
from cestprep.phantom.tissues import TISSUES

#: Known values of a draw are those of one voxel plus this much of the difference of two others.
_MIXED = 0.3
#: SD of the logarithm by which noise levels are varied.
_NOISE_SPREAD = 0.3
#: Relative SD between voxels of a tissue.
_TISSUE_SPREAD = 0.08


def draw_prior(problem: InverseProblem, count: int, rng: np.random.Generator) -> np.ndarray:
    """Free parameters from the recipe's uniform prior, package units, shape (p, count)."""
    low, high = problem.bounds.T[:, :, None]
    drawn: np.ndarray = low + (high - low) * rng.random((len(problem.free), count))
    return drawn


def draw_voxels(voxels: Voxels, count: int, rng: np.random.Generator) -> Voxels:
    """Voxels like those given, without data: known values, their errors and noise levels.

    Joint distributions are kept (a voxel's T1, T2 and B1 go together) and somewhat widened, so
    that a network also meets what lies between and a little beyond.
    """
    known = np.asarray(voxels.known)
    first, second, third = rng.integers(known.shape[1], size=(3, count))
    mixed = known[:, first] + _MIXED * (known[:, second] - known[:, third])
    least = 0.7 * known.min(axis=1, keepdims=True)
    mixed = np.where(known.min(axis=1, keepdims=True) > 0, np.maximum(mixed, least), mixed)
    noise = np.asarray(voxels.noise)[first] * np.exp(_NOISE_SPREAD * rng.standard_normal(count))
    parts = [np.zeros((voxels.data.shape[0], count)), mixed, voxels.factor[:, :, first], noise]
    return Voxels(*(np.asarray(x, known.dtype) for x in parts))  # type: ignore[arg-type]


def draw_truth(problem: InverseProblem, voxels: Voxels, rng: np.random.Generator) -> np.ndarray:
    """True known parameters given their measured values and errors, shape (q, V).

    What errors carry past a physical limit is reflected there: signals of a negative rate grow
    without end.
    """
    drawn = rng.standard_normal(voxels.factor.shape[1:])
    truth = np.asarray(voxels.known) + np.einsum("qrv,rv->qv", np.asarray(voxels.factor), drawn)
    low, high = np.array([physical_limits(name) for name in problem.known_parameters]).T[..., None]
    inside: np.ndarray = np.clip(low + np.abs(truth - low), low, high)
    return inside.astype(np.asarray(voxels.known).dtype)


def draw_tissue(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Parameters of voxels half grey, half white matter at 3 T, and fields; package units.

    Returns
    -------
    mapping of parameter name to ndarray, shape (count,)
    """
    white = rng.random(count) < 0.5
    drawn = {
        name: np.where(white, TISSUES["WM"][name], TISSUES["GM"][name])
        * (1 + _TISSUE_SPREAD * rng.standard_normal(count).clip(-3, 3))
        for name in TISSUES["WM"]
    }
    fields = (("b0_ppm", (-0.15, 0.15)), ("b1_scale", (0.88, 1.12)))
    return drawn | {name: rng.uniform(*ends, count) for name, ends in fields}
