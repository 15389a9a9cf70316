"""Do posteriors hold the truth as often as they say: coverage and simulation-based calibration.

All of it works in whatever space it is given (package units or unconstrained values), the same for
truth and posterior, with voxels last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from cestprep.inference.measured import GAUSSIAN_QUANTILE

#: Fewest ranks expected in a bin for which the chi-square distribution holds (Cochran's rule).
_FEWEST_EXPECTED = 5


@dataclass(frozen=True)
class RankTest:
    """Chi-square test of uniform ranks, one per parameter.

    Attributes
    ----------
    statistic : ndarray, shape (p,)
        Dimensionless; with uniform ranks chi-square with ``bins - 1`` degrees of freedom.
    p_value : ndarray, shape (p,)
        Dimensionless.
    counts : ndarray of int, shape (p, bins)
        Voxels per bin, lowest ranks first.
    """

    statistic: np.ndarray
    p_value: np.ndarray
    counts: np.ndarray


def coverage(levels: np.ndarray, level_of_truth: np.ndarray) -> np.ndarray:
    """Share of voxels whose truth lies in the region of highest density of each level.

    Parameters
    ----------
    levels : ndarray, shape (L,)
        Posterior masses of the regions, between 0 and 1, dimensionless.
    level_of_truth : ndarray, shape (V,)
        Posterior mass denser than the truth, dimensionless.  A voxel with NaN has no region and
        counts as not covered, so that failures do not flatter.

    Returns
    -------
    ndarray, shape (L,)
        Dimensionless; equal to ``levels`` within `coverage_interval` for honest posteriors.

    Raises
    ------
    ValueError
        No voxels, or a level that is not between 0 and 1.
    """
    levels, level_of_truth = np.asarray(levels), np.asarray(level_of_truth)
    if level_of_truth.size == 0:
        raise ValueError("coverage needs at least one voxel")
    if not np.all((levels > 0) & (levels < 1)):
        raise ValueError("levels must lie between 0 and 1")
    shares: np.ndarray = np.mean(level_of_truth <= levels[:, None], axis=1)
    return shares


def coverage_interval(level: float, n: int) -> float:
    """How far the coverage of an honest posterior may be from its level, by chance.

    Parameters
    ----------
    level : float
        Between 0 and 1, dimensionless.
    n : int
        Number of independent voxels.

    Returns
    -------
    float
        Half-width of the central 95 % interval of a binomial share, dimensionless, by the normal
        approximation; too narrow where fewer than about 10 voxels are expected outside.

    Raises
    ------
    ValueError
        No voxels, or a level that is not between 0 and 1.
    """
    if n < 1:
        raise ValueError("an interval needs at least one voxel")
    if not 0 < level < 1:
        raise ValueError("the level must lie between 0 and 1")
    return float(GAUSSIAN_QUANTILE * np.sqrt(level * (1 - level) / n))


def gaussian_samples(
    mean: np.ndarray, factor: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Samples of one Gaussian per voxel.

    Parameters
    ----------
    mean : ndarray, shape (p, V)
        Any units.
    factor : ndarray, shape (p, p, V)
        Lower Cholesky factor of the covariance, in the same units.
    count : int
        Samples per voxel.
    rng : Generator

    Returns
    -------
    ndarray, shape (count, p, V)
        In the same units.
    """
    steps = rng.standard_normal((count, *np.shape(mean)))
    samples: np.ndarray = mean + np.einsum("ijv,mjv->miv", factor, steps)
    return samples


def mahalanobis_distance(points: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Distance of points from the mean of their voxel's Gaussian, in SDs.

    Parameters
    ----------
    points : ndarray, shape (m, p, V)
        Any units, the same for all arguments.
    mean : ndarray, shape (p, V)
    factor : ndarray, shape (p, p, V)
        Lower Cholesky factor of the covariance.

    Returns
    -------
    ndarray, shape (m, V)
        Dimensionless.  Infinite where a number is not finite or the factor is singular (a pivot not
        above 0), whatever the other voxels are.
    """
    points, mean, factor = (np.asarray(x, float) for x in (points, mean, factor))
    usable = np.isfinite(mean).all(axis=0) & np.isfinite(factor).all(axis=(0, 1))
    usable &= (np.einsum("iiv->iv", factor) > 0).all(axis=0)
    within = usable & np.isfinite(points).all(axis=1)
    factor = np.where(usable, factor, np.eye(len(mean))[:, :, None])
    offset = np.where(within[:, None], points, 0) - np.where(usable, mean, 0)
    white = np.linalg.solve(np.moveaxis(factor, -1, 0), offset.T)
    return np.where(within, np.linalg.norm(white, axis=1).T, np.inf)


def gaussian_level(truth: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Posterior mass denser than the truth, for one Gaussian posterior per voxel.

    The squared Mahalanobis distance of a Gaussian's own samples is chi-square with p degrees of
    freedom, so its distribution function is the level of the region that just holds the truth.

    Parameters
    ----------
    truth, mean : ndarray, shape (p, V)
        Any units, the same for all arguments.
    factor : ndarray, shape (p, p, V)
        Lower Cholesky factor of the covariance.

    Returns
    -------
    ndarray, shape (V,)
        Dimensionless.  1 (outside of every region) where a number is not finite or the factor is
        singular.
    """
    distance = mahalanobis_distance(np.asarray(truth)[None], mean, factor)[0]
    level: np.ndarray = stats.chi2.cdf(distance**2, len(mean))
    return level


def sbc_ranks(truth: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Rank of the truth among samples of its posterior.

    Uniform on 0 ... m if truths come from the prior and the m samples are independent draws from
    the exact posterior.  A sample equal to the truth does not count as below it, so posteriors on
    a grid have to be spread within their cells first.

    Parameters
    ----------
    truth : ndarray, shape (p, V)
        Any units, the same for both.
    samples : ndarray, shape (m, p, V)

    Returns
    -------
    ndarray of int, shape (p, V)
        Number of samples below the truth.

    Raises
    ------
    ValueError
        Something is not finite: it would have a rank all the same.

    References
    ----------
    Talts et al., arXiv 1804.06788 (2018), Theorem 1 and Algorithm 1.
    """
    if not (np.isfinite(truth).all() and np.isfinite(samples).all()):
        raise ValueError("ranks need finite truths and samples")
    ranks: np.ndarray = np.sum(samples < truth, axis=0)
    return ranks


def rank_test(ranks: np.ndarray, n_samples: int, bins: int) -> RankTest:
    """Chi-square test that ranks are uniform, for each parameter.

    Posteriors that are too narrow fill the outer bins, too wide ones the inner bins, biased ones
    one side.  Voxels have to be independent; each parameter is tested on its own.

    Parameters
    ----------
    ranks : ndarray of int, shape (p, V)
        Between 0 and ``n_samples``.
    n_samples : int
        Samples each truth was ranked among.
    bins : int
        At least 2, and divides ``n_samples + 1``, so that all bins hold equally many ranks.

    Returns
    -------
    RankTest

    Raises
    ------
    ValueError
        Unequal bins, fewer than five voxels expected in each, or a rank out of range.

    References
    ----------
    Talts et al., arXiv 1804.06788 (2018): uniform ranks and how to read their histogram.
    """
    if bins < 2 or (n_samples + 1) % bins:
        raise ValueError(f"{n_samples + 1} ranks cannot be split into {bins} equal bins")
    if ranks.shape[1] < _FEWEST_EXPECTED * bins:
        raise ValueError(f"{bins} bins need at least {_FEWEST_EXPECTED * bins} voxels")
    if ranks.min() < 0 or ranks.max() > n_samples:
        raise ValueError(f"ranks must lie between 0 and {n_samples}")
    places = ranks // ((n_samples + 1) // bins)
    counts = np.stack([np.bincount(row, minlength=bins) for row in places])
    statistic, p_value = stats.chisquare(counts, axis=1)
    return RankTest(statistic, p_value, counts)
