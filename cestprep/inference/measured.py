"""From an observation to the voxels a method works on, and from its numbers to an estimate.

What all methods share: which voxels carry signal, scaling, fidelity, intervals and validity codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import chdtrc, ndtr, ndtri

from cestprep.inference.estimate import Estimate, Meaning, Validity, high_nrmse, solver_code
from cestprep.inference.least_squares import degrees_of_freedom
from cestprep.inference.likelihood import Departure
from cestprep.inference.noise import RESIDUAL
from cestprep.inference.problem import InverseProblem, Observation

CREDIBLE_LEVEL = 0.95
GAUSSIAN_QUANTILE = float(ndtri(0.5 + CREDIBLE_LEVEL / 2))
#: Voxels with a p-value below are misfits where the noise is thermal.
MISFIT_P = 1e-3
#: The code of a voxel is the first of these that applies.
_GRAVEST_FIRST = (
    Validity.NOT_CONVERGED,
    Validity.OUT_OF_RANGE,
    Validity.MISFIT,
    Validity.AT_BOUND,
    Validity.NOT_GAUSSIAN,
)
Values: TypeAlias = np.ndarray | Array
#: What the intervals are where a method gives moments only.
CUT_GAUSSIAN = "Gaussian, cut at the bounds; the whole range where a parameter lies at its bound"
MARGINAL = "central interval of the marginal posterior"
LEAST_SQUARES = Meaning("best fit (weighted least squares)", CUT_GAUSSIAN, gaussian=True)


@dataclass(frozen=True)
class Measured:
    """Voxels of an observation that carry signal, in the arithmetic of JAX.

    Attributes
    ----------
    problem : InverseProblem
    fittable : ndarray of bool, shape (V,)
        Finite, with positive signal; the other attributes hold these voxels only.
    data : ndarray, shape (n, F)
        Normalised by the problem.
    known : ndarray, shape (q, F)
    known_covariance : ndarray, shape (q, q, F)
    scale : ndarray, shape (F,)
        By which the measured signal was divided.
    noise : ndarray, shape (F,), or None
        SD of one volume over ``scale``, where it is known.
    thermal : bool
        Whether the noise comes from a source independent of the fit, so that misfit shows.
    """

    problem: InverseProblem
    fittable: np.ndarray
    data: np.ndarray
    known: np.ndarray
    known_covariance: np.ndarray
    scale: np.ndarray
    noise: np.ndarray | None
    thermal: bool

    @classmethod
    def of(cls, problem: InverseProblem, observation: Observation) -> Measured:
        """The voxels of an observation."""
        dtype = jnp.zeros(()).dtype
        measured = observation.data
        fittable = np.all(np.isfinite(measured), axis=0) & (measured.max(axis=0) > 0)
        peak = np.where(fittable, measured.max(axis=0), 1).astype(float)
        relative = np.where(fittable, measured / peak, 0)  # any scale of the scanner
        with jax.enable_x64(
            True
        ):  # how a sum in float32 rounds depends on how many voxels there are
            scales = np.asarray(problem.scale(jnp.asarray(relative)))
        fittable = fittable & (scales > 0)
        chosen = observation.take(fittable)
        scale = scales[fittable]
        total = scale * peak[fittable]
        noise = None if chosen.noise_sd is None else (chosen.noise_sd / total).astype(dtype)
        return cls(
            problem,
            fittable,
            (relative[:, fittable] / scale).astype(dtype),
            chosen.known.astype(dtype),
            chosen.known_covariance.astype(dtype),
            total,
            noise,
            noise is not None and observation.noise_source != RESIDUAL,
        )

    @property
    def count(self) -> int:
        """Number of voxels that carry signal."""
        return int(self.fittable.sum())

    def take(self, voxels: np.ndarray) -> Measured:
        """Some of the voxels that carry signal, by index."""
        fittable = np.zeros(self.fittable.shape, bool)
        fittable[np.flatnonzero(self.fittable)[voxels]] = True
        return Measured(
            self.problem,
            fittable,
            self.data[:, voxels],
            self.known[:, voxels],
            self.known_covariance[:, :, voxels],
            self.scale[voxels],
            None if self.noise is None else self.noise[voxels],
            self.thermal,
        )

    def blank(self) -> Estimate:
        """Nothing estimated yet in any voxel of the observation."""
        codes = np.where(self.fittable, Validity.OK, Validity.NO_SIGNAL)
        return Estimate.blank(len(self.problem.free), self.problem.protocol.n_volumes, codes)

    def finish(
        self,
        theta: Values,
        covariance: Values,
        fitted: Values,
        *,
        at_bound: Values,
        departure: Departure | None = None,
        interval: tuple[Values, Values] | None = None,
        codes: Mapping[Validity, Values] | None = None,
    ) -> Estimate:
        """Estimate of all voxels of the observation.

        Parameters
        ----------
        theta : ndarray, shape (p, F)
        covariance : ndarray, shape (p, p, F)
        fitted : ndarray, shape (n, F)
            Model signal on the scale of ``data``.
        at_bound : ndarray of bool, shape (F,)
        departure : Departure, optional
            Of the data from ``fitted``; needed where the noise is thermal.
        interval : pair of ndarray, shape (p, F), optional
            Central 95 % intervals; else those of a Gaussian, cut off at the bounds, all of the
            range for voxels at a bound.
        codes : mapping of Validity to ndarray of bool, optional
            Further findings.
        """
        theta, covariance, fitted = (np.asarray(x) for x in (theta, covariance, fitted))
        failed: Any = ~(np.isfinite(theta).all(axis=0) & np.isfinite(covariance).all(axis=(0, 1)))
        failed |= ~np.isfinite(fitted).all(axis=0)
        theta, covariance, fitted = (np.where(failed, 0, x) for x in (theta, covariance, fitted))
        nrmse = unit_norm_distance(fitted, self.data)
        r_squared = _r_squared(fitted, self.data)
        found: dict[Validity, Any] = {Validity.AT_BOUND: np.asarray(at_bound), **(codes or {})}
        found[Validity.NOT_CONVERGED] = failed | found.get(Validity.NOT_CONVERGED, False)
        if departure is not None and self.thermal:
            misfit = misfit_probability(self.problem, departure) < MISFIT_P
        else:
            misfit = high_nrmse(nrmse, ~found[Validity.NOT_CONVERGED])
        found[Validity.MISFIT] = misfit | (r_squared < 0)
        validity = np.full(nrmse.shape, Validity.OK, np.uint8)
        for code in reversed(_GRAVEST_FIRST):
            validity[found.get(code, False) & np.ones(nrmse.shape, bool)] = code
        lower, upper = interval or self._gaussian_interval(theta, covariance, np.asarray(at_bound))
        part = Estimate(
            mean=theta,
            covariance=covariance,
            lower=np.where(failed, 0, lower),
            upper=np.where(failed, 0, upper),
            fitted=fitted * self.scale,
            nrmse=nrmse,
            r_squared=r_squared,
            validity=validity,
            solver=np.full(nrmse.shape, solver_code(self.problem.solver), np.uint8),
        )
        return self.blank().fill(self.fittable, part)

    def _gaussian_interval(
        self, theta: np.ndarray, covariance: np.ndarray, at_bound: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        reach = GAUSSIAN_QUANTILE * np.sqrt(np.einsum("iiv->iv", covariance))
        low, high = self.problem.bounds.T[:, :, None]
        lower = np.where(at_bound, low, np.maximum(theta - reach, low))
        upper = np.where(at_bound, high, np.minimum(theta + reach, high))
        return lower, upper


def distance_probability(problem: InverseProblem, distance2: Values) -> np.ndarray:
    """Probability of a squared distance this large, in units of thermal noise, shape (F,)."""
    p: np.ndarray = chdtrc(degrees_of_freedom(problem), np.asarray(distance2, float))
    return p


def misfit_probability(problem: InverseProblem, departure: Departure) -> np.ndarray:
    """Probability of a departure this large by thermal noise and errors of the maps, shape (F,).

    Of two tests, of the distance as a whole and of the farthest score; Bonferroni's bound.
    """
    p = distance_probability(problem, departure.distance2)
    scores = np.abs(np.asarray(departure.scores, float))
    if not len(scores):
        return p
    farthest = 2 * len(scores) * ndtr(-scores.max(axis=0))
    either: np.ndarray = np.minimum(1.0, 2 * np.minimum(p, farthest))
    return either


def unit_norm_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of signals scaled to unit norm each, shape (V,) of (n, V)."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=0), 1e-30) for x in (a, b))
    distance: np.ndarray = np.linalg.norm(a - b, axis=0)
    return distance


def _r_squared(fitted: np.ndarray, data: np.ndarray) -> np.ndarray:
    spread = data - data.mean(axis=0)
    total = np.maximum(np.sum(spread**2, axis=0), np.finfo(data.dtype).tiny)
    r_squared: np.ndarray = np.maximum(1 - np.sum((data - fitted) ** 2, axis=0) / total, -1)
    return r_squared
