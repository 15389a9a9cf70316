"""What every method returns for a stage, and the validity codes of its voxels."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np

from cestprep.physics.solvers import SOLVERS


class Validity(IntEnum):
    """Why a voxel's estimate can or cannot be used."""

    OK = 0
    OUTSIDE_MASK = 1
    MISSING_AUXILIARY = 2
    AT_BOUND = 3
    MISFIT = 4
    NOT_CONVERGED = 5
    OUT_OF_RANGE = 6
    NOT_GAUSSIAN = 7
    NO_SIGNAL = 8


LEVELS = {
    Validity.OK: "ok",
    Validity.OUTSIDE_MASK: "outside the mask, not computed",
    Validity.MISSING_AUXILIARY: "auxiliary map or earlier stage missing or invalid, not computed",
    Validity.AT_BOUND: "a parameter lies at its bound",
    Validity.MISFIT: "high NRMSE: a robust outlier among the fitted voxels, or R² below 0",
    Validity.NOT_CONVERGED: "the optimiser did not converge",
    Validity.OUT_OF_RANGE: "outside the range of the training data",
    Validity.NOT_GAUSSIAN: "the posterior is not Gaussian",
    Validity.NO_SIGNAL: "no positive finite signal, not computed",
}
USABLE = (Validity.OK, Validity.AT_BOUND, Validity.NOT_GAUSSIAN)


@dataclass(frozen=True)
class Meaning:
    """What the numbers of an estimate are, in words.

    Attributes
    ----------
    centre, interval : str
    gaussian : bool
        Whether intervals are those of a Gaussian in the parameters, too narrow where a pool is
        nearly empty.
    """

    centre: str
    interval: str
    gaussian: bool = False


@dataclass(frozen=True)
class Estimate:
    """Estimates of ``p`` parameters in ``V`` voxels, in package units, voxels last.

    Attributes
    ----------
    mean : ndarray, shape (p, V)
        Fitted values (or posterior mean); 0 where not computed.
    covariance : ndarray, shape (p, p, V)
    lower, upper : ndarray, shape (p, V)
        Central 95 % credible intervals.
    fitted : ndarray, shape (n_volumes, V)
        Model signal at ``mean``, on the scale of the data.
    nrmse : ndarray, shape (V,)
        Distance of measured and modelled signal, each scaled to unit norm (a fraction).
    r_squared : ndarray, shape (V,)
        Of the normalised signal about its mean, not below -1.
    validity : ndarray of int, shape (V,)
        `Validity` codes.
    solver : ndarray of int, shape (V,)
        Which solver simulated the voxel: place in `cestprep.physics.solvers.SOLVERS`, from 1; 0
        where nothing was computed.
    """

    mean: np.ndarray
    covariance: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    fitted: np.ndarray
    nrmse: np.ndarray
    r_squared: np.ndarray
    validity: np.ndarray
    solver: np.ndarray

    @property
    def voxels_by_solver(self) -> dict[str, int]:
        """How many voxels each solver that was used simulated, most first."""
        counts = {name: int((self.solver == i).sum()) for i, name in enumerate(SOLVERS, start=1)}
        used = [(name, count) for name, count in counts.items() if count]
        return dict(sorted(used, key=lambda item: -item[1]))

    @property
    def valid(self) -> np.ndarray:
        """Boolean, shape (V,): ok, at a bound, or with a posterior that is not Gaussian."""
        usable: np.ndarray = np.isin(self.validity, USABLE)
        return usable

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations, shape (p, V)."""
        sd: np.ndarray = np.sqrt(np.einsum("iiv->iv", self.covariance))
        return sd

    def arrays(self) -> dict[str, np.ndarray]:
        """Fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def take(self, voxels: np.ndarray) -> Estimate:
        """The estimates of some voxels (boolean mask or indices)."""
        return Estimate(**{name: array[..., voxels] for name, array in self.arrays().items()})

    @classmethod
    def blank(cls, n_parameters: int, n_volumes: int, validity: np.ndarray) -> Estimate:
        """Zeros everywhere, with the given codes."""
        v = validity.size
        return cls(
            mean=np.zeros((n_parameters, v), np.float32),
            covariance=np.zeros((n_parameters, n_parameters, v), np.float32),
            lower=np.zeros((n_parameters, v), np.float32),
            upper=np.zeros((n_parameters, v), np.float32),
            fitted=np.zeros((n_volumes, v), np.float32),
            nrmse=np.zeros(v, np.float32),
            r_squared=np.zeros(v, np.float32),
            validity=validity.astype(np.uint8),
            solver=np.zeros(v, np.uint8),
        )

    def fill(self, voxels: np.ndarray, part: Estimate) -> Estimate:
        """A copy with the voxels where ``voxels`` (boolean) is true taken from ``part``."""
        merged = {name: array.copy() for name, array in self.arrays().items()}
        for name, array in part.arrays().items():
            merged[name][..., voxels] = array
        return Estimate(**merged)


def solver_code(name: str) -> int:
    """Code of a solver in `Estimate.solver`."""
    return 1 + list(SOLVERS).index(name)


def flag_misfits(estimate: Estimate) -> Estimate:
    """The estimate with outliers of NRMSE among all its voxels flagged too."""
    fitted = np.isin(estimate.validity, (Validity.OK, Validity.AT_BOUND, Validity.MISFIT))
    high = high_nrmse(estimate.nrmse, fitted) & fitted
    return replace(estimate, validity=np.where(high, Validity.MISFIT, estimate.validity))


def high_nrmse(nrmse: np.ndarray, converged: np.ndarray, limit: float = 4.0) -> np.ndarray:
    """Voxels whose NRMSE is a robust outlier (log scale, ``limit`` SDs from median and MAD).

    Used where no noise level independent of the fit exists; no p-value is claimed.
    """
    log = np.log(np.maximum(nrmse, 1e-9))
    if converged.sum() < 20:
        return np.zeros(nrmse.shape, bool)
    centre = np.median(log[converged])
    spread = 1.4826 * np.median(np.abs(log[converged] - centre))
    high: np.ndarray = log > centre + limit * max(spread, 1e-6)
    return high
