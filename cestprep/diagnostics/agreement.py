"""How well signals, maps and posteriors of two sources agree."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

from cestprep.diagnostics.calibration import gaussian_samples, mahalanobis_distance
from cestprep.inference.measured import unit_norm_distance

#: Least eigenvalue of a correlation matrix: below, float32 maps do not tell it from 0.
_LEAST_EIGENVALUE = 1e-6


def nrmse(measured: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Distance of measured and fitted signals, each scaled to unit norm.

    Parameters
    ----------
    measured, fitted : ndarray, shape (n, V)
        Normalised signals of each voxel, dimensionless.

    Returns
    -------
    ndarray, shape (V,)
        A fraction, as ``Estimate.nrmse``; NaN where a signal has NaN.

    Raises
    ------
    ValueError
        The shapes differ.

    References
    ----------
    Finkelstein et al., arXiv 2602.03317, Table I ("goodness of fit").
    """
    _check_shapes(measured, fitted)
    return unit_norm_distance(fitted, measured)


def map_nrmse(a: np.ndarray, reference: np.ndarray) -> float:
    """Root mean squared difference of two maps over the range of the reference.

    Parameters
    ----------
    a, reference : ndarray, any shape
        File or package units, the same for both; voxels where either is not finite do not count.

    Returns
    -------
    float
        A fraction, dimensionless.

    Raises
    ------
    ValueError
        The shapes differ, no voxel is finite in both, or the reference is constant.

    References
    ----------
    Finkelstein et al., Commun. Phys. 8:164 (2025), Fig. 5e.
    """
    a, reference = _finite(a, reference)
    extent = np.ptp(reference)
    if extent == 0:
        raise ValueError("the reference is constant")
    return float(np.sqrt(np.mean((a - reference) ** 2)) / extent)


def r_squared(a: np.ndarray, reference: np.ndarray) -> float:
    """Share of the reference's variance over voxels that a map explains.

    Of the maps' values themselves, not of a line through them: an offset or a wrong slope lowers
    it.

    Parameters
    ----------
    a, reference : ndarray, any shape
        File or package units, the same for both; voxels where either is not finite do not count.

    Returns
    -------
    float
        Coefficient of determination, dimensionless, at most 1; negative where the reference's mean
        would be nearer.

    Raises
    ------
    ValueError
        The shapes differ, no voxel is finite in both, or the reference is constant.
    """
    a, reference = _finite(a, reference)
    if np.ptp(reference) == 0:
        raise ValueError("the reference is constant")
    return float(1 - np.sum((a - reference) ** 2) / np.sum((reference - reference.mean()) ** 2))


def ssim(a: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Structural similarity of two maps, mean over the voxels of a mask.

    By scikit-image: uniform windows of 7 x 7 voxels in each slice.  The range of the data is the
    reference's largest value in the mask, one for all slices.  Windows reach beyond the mask, where
    the maps should hold the same background; voxels where either map is not finite do not count
    and are 0 in both for their neighbours.

    Parameters
    ----------
    a, reference : ndarray, shape (X, Y) or (X, Y, Z)
        File or package units, the same for both; slices of at least 7 x 7 voxels along the last
        axis.
    mask : ndarray of bool, same shape

    Returns
    -------
    float
        Dimensionless, at most 1.

    Raises
    ------
    ValueError
        The shapes differ or are not those of slices, the mask holds no voxel that is finite in both
        maps, or the reference is nowhere positive in it.

    References
    ----------
    Wang et al., IEEE Trans. Image Process. 13 (2004) 600-612; range of the data as in Finkelstein
    et al., Commun. Phys. 8:164 (2025).
    """
    _check_shapes(a, reference, mask)
    if a.ndim not in (2, 3):
        raise ValueError(f"{a.ndim} dimensions where a slice or a volume was expected")
    finite = np.isfinite(a) & np.isfinite(reference)
    counted = finite & mask
    if not counted.any():
        raise ValueError("the mask holds no voxel that is finite in both maps")
    peak = reference[counted].max()
    if peak <= 0:
        raise ValueError("the reference is nowhere positive in the mask")
    a, reference = (np.where(finite, x, 0).astype(float) for x in (a, reference))
    a, reference, counted = (np.atleast_3d(x) for x in (a, reference, counted))
    found = [
        _similarity(a[..., z], reference[..., z], peak)[counted[..., z]]
        for z in np.flatnonzero(counted.any(axis=(0, 1)))
    ]
    return float(np.concatenate(found).mean())


def icc_2_1(ratings: np.ndarray) -> float:
    """Intraclass correlation ICC(2,1): two-way random effects, absolute agreement, single measure.

    Parameters
    ----------
    ratings : ndarray, shape (n, k)
        Subjects (voxels) by judges (methods), file or package units, the same for all; subjects
        with a rating that is not finite do not count.

    Returns
    -------
    float
        Dimensionless, at most 1.

    Raises
    ------
    ValueError
        Fewer than two finite subjects or two judges, or no variance to share out.

    References
    ----------
    Shrout & Fleiss, Psychol. Bull. 86 (1979) 420-428.
    """
    ratings = np.asarray(ratings, float)
    ratings = ratings[np.isfinite(ratings).all(axis=1)]
    n, k = ratings.shape
    if n < 2 or k < 2:
        raise ValueError("an ICC needs at least two subjects and two judges")
    subjects = ratings.mean(axis=1, keepdims=True) - ratings.mean()
    judges = ratings.mean(axis=0) - ratings.mean()
    rest = ratings - ratings.mean() - subjects - judges
    between = k * np.sum(subjects**2) / (n - 1)
    judge = n * np.sum(judges**2) / (k - 1)
    error = np.sum(rest**2) / ((n - 1) * (k - 1))
    total = between + (k - 1) * error + k * (judge - error) / n
    if total <= 0:
        raise ValueError("the ratings have no variance to share out")
    return float((between - error) / total)


def mahalanobis_both_ways(
    mean_a: np.ndarray,
    cov_a: np.ndarray,
    mean_b: np.ndarray,
    cov_b: np.ndarray,
    n_samples: int = 10,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """How far samples of one Gaussian posterior lie from another, in SDs of the other.

    If both posteriors are the same, samples follow a chi distribution with p degrees of freedom
    (median 1.177 for p = 2).  With a network's posterior first and the reference second the results
    are M1 and M2 of the paper.

    No posterior is narrower in any direction than float32 maps can tell: eigenvalues of its
    correlation matrix below 1e-6 count as 1e-6, for its samples and for distances to it.  Where a
    number is not finite, a variance is not positive or an eigenvalue is below -1e-6, there is no
    posterior to compare and both distances are infinite; other voxels do not change.

    Parameters
    ----------
    mean_a, mean_b : ndarray, shape (p, V)
        File or package units, or unconstrained values, the same for all arguments.
    cov_a, cov_b : ndarray, shape (p, p, V)
        Symmetric.
    n_samples : int
        Samples per voxel and direction.
    seed : int

    Returns
    -------
    a_under_b, b_under_a : ndarray, shape (V,)
        Median over the samples, dimensionless.

    Raises
    ------
    ValueError
        The shapes do not fit each other, or there are no samples.

    References
    ----------
    Finkelstein et al., arXiv 2602.03317, Section II-E and Table I.
    """
    _check_shapes(mean_a, mean_b)
    _check_shapes(cov_a, cov_b)
    if np.shape(cov_a) != (len(mean_a), *np.shape(mean_a)):
        raise ValueError(f"covariances {np.shape(cov_a)} do not fit means {np.shape(mean_a)}")
    if n_samples < 1:
        raise ValueError("distances need at least one sample")
    rng = np.random.default_rng(seed)
    a, b = _posterior(mean_a, cov_a), _posterior(mean_b, cov_b)
    from_a, from_b = (gaussian_samples(*x, n_samples, rng) for x in (a, b))
    return (
        np.median(mahalanobis_distance(from_a, *b), axis=0),
        np.median(mahalanobis_distance(from_b, *a), axis=0),
    )


def interval_intersection(
    low_a: np.ndarray, high_a: np.ndarray, low_b: np.ndarray, high_b: np.ndarray
) -> np.ndarray:
    """Whether two closed intervals have a value in common.

    Parameters
    ----------
    low_a, high_a, low_b, high_b : ndarray, shape (p, V)
        Ends of the intervals of each parameter and voxel, file or package units, the same for all.

    Returns
    -------
    ndarray of bool, shape (p, V)
        False where an end is NaN or an interval's ends are the wrong way round.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    _check_shapes(low_a, high_a, low_b, high_b)
    meet: np.ndarray = np.maximum(low_a, low_b) <= np.minimum(high_a, high_b)
    return meet


def contrast_to_uncertainty(
    mean_1: np.ndarray, variance_1: np.ndarray, mean_2: np.ndarray, variance_2: np.ndarray
) -> np.ndarray:
    """Contrast of two regions over their total uncertainty (CUR), for each parameter.

    Eq. 9 of the paper is (mu1 - mu2) / sqrt((V1 + V2) / 2): mu is the mean of a region's estimates,
    V the mean squared distance from mu of posterior samples, one from each voxel.  Here V is what
    that tends to with many samples (law of total variance): mean of the voxels' posterior variances
    plus variance of their means.  The paper's mu is of MAPs, which are the means of Gaussian
    posteriors.

    Parameters
    ----------
    mean_1, mean_2 : ndarray, shape (p, V1) and (p, V2)
        Posterior means of the voxels of each region, file or package units, the same for all.
    variance_1, variance_2 : ndarray, same shapes
        Posterior variances, in those units squared.  Voxels where a number of any parameter is not
        finite do not count.

    Returns
    -------
    ndarray, shape (p,)
        Dimensionless; positive where region 1 is the larger.

    Raises
    ------
    ValueError
        Shapes of mean and variance differ, a region holds no finite voxel, or neither region has
        any uncertainty in a parameter.

    References
    ----------
    Finkelstein et al., arXiv 2602.03317, Eq. 9.
    """
    mu_1, total_1 = _region(mean_1, variance_1)
    mu_2, total_2 = _region(mean_2, variance_2)
    spread = np.sqrt((total_1 + total_2) / 2)
    if not np.all(spread > 0):
        raise ValueError("neither region has any uncertainty in a parameter")
    ratio: np.ndarray = (mu_1 - mu_2) / spread
    return ratio


def _check_shapes(*arrays: np.ndarray) -> None:
    shapes = {np.shape(x) for x in arrays}
    if len(shapes) > 1:
        raise ValueError(f"shapes differ: {sorted(shapes)}")


def _finite(a: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of the voxels that are finite in both maps, in float64."""
    _check_shapes(a, reference)
    finite = np.isfinite(a) & np.isfinite(reference)
    if not finite.any():
        raise ValueError("no voxel is finite in both maps")
    return a[finite].astype(float), reference[finite].astype(float)


def _similarity(a: np.ndarray, reference: np.ndarray, peak: float) -> np.ndarray:
    """Structural similarity around each pixel of a slice."""
    similarity: np.ndarray
    _, similarity = structural_similarity(a, reference, data_range=peak, full=True)
    return similarity


def _posterior(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and lower factor of the covariance, by the rule of `mahalanobis_both_ways`.

    The factor is NaN where the covariance is none.
    """
    stacked = np.moveaxis(np.asarray(covariance, float), -1, 0)
    variance = np.einsum("vii->vi", stacked)
    usable = np.isfinite(stacked).all(axis=(1, 2)) & (variance > 0).all(axis=1)
    sd = np.sqrt(np.where(usable[:, None], variance, 1))
    scales = sd[:, :, None] * sd[:, None, :]
    values, vectors = np.linalg.eigh(
        np.where(usable[:, None, None], stacked / scales, np.eye(len(mean)))
    )
    usable &= values[:, 0] >= -_LEAST_EIGENVALUE
    floored = np.maximum(values, _LEAST_EIGENVALUE)
    lower = np.linalg.cholesky((vectors * floored[:, None, :]) @ vectors.transpose(0, 2, 1))
    factor = np.moveaxis(sd[:, :, None] * lower, 0, -1)
    return np.asarray(mean, float), np.where(usable, factor, np.nan)


def _region(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a region and its total variance, for each parameter."""
    _check_shapes(mean, variance)
    finite = np.isfinite(mean).all(axis=0) & np.isfinite(variance).all(axis=0)
    if not finite.any():
        raise ValueError("a region holds no finite voxel")
    means, variances = (x[:, finite].astype(float) for x in (mean, variance))
    return means.mean(axis=1), variances.mean(axis=1) + means.var(axis=1)
