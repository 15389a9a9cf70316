"""Calibration: exact posteriors pass, posteriors known to be wrong fail by as much as they must."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cestprep.diagnostics import calibration

LEVELS = np.array([0.5, 0.8, 0.95])
VOXELS, SAMPLES, BINS = 4000, 99, 20
PRIOR = np.array([[2.0, 0.9], [0.9, 1.0]])
NOISE = np.array([[0.5, -0.3], [-0.3, 0.8]])


def problem(seed=0):
    """Truths from the prior and their exact posteriors, in a linear Gaussian model."""
    rng = np.random.default_rng(seed)
    truth = rng.multivariate_normal(np.zeros(2), PRIOR, VOXELS)
    data = truth + rng.multivariate_normal(np.zeros(2), NOISE, VOXELS)
    covariance = np.linalg.inv(np.linalg.inv(PRIOR) + np.linalg.inv(NOISE))
    mean = data @ np.linalg.inv(NOISE) @ covariance
    factor = np.repeat(np.linalg.cholesky(covariance)[:, :, None], VOXELS, axis=2)
    return truth.T, mean.T, factor


def ranks_of(truth, mean, factor):
    rng = np.random.default_rng(1)
    samples = calibration.gaussian_samples(mean, factor, SAMPLES, rng)
    return calibration.rank_test(calibration.sbc_ranks(truth, samples), SAMPLES, BINS)


def intervals():
    return np.array([calibration.coverage_interval(level, VOXELS) for level in LEVELS])


def test_exact_posteriors_cover_and_have_uniform_ranks():
    truth, mean, factor = problem()
    found = calibration.coverage(LEVELS, calibration.gaussian_level(truth, mean, factor))
    assert np.all(np.abs(found - LEVELS) < 2 * intervals())
    assert np.all(ranks_of(truth, mean, factor).p_value > 1e-3)


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_posteriors_of_wrong_width_are_found_out(width):
    """Of two parameters, a level l becomes 1 - (1 - l) ** width ** 2."""
    truth, mean, factor = problem()
    found = calibration.coverage(LEVELS, calibration.gaussian_level(truth, mean, width * factor))
    expected = 1 - (1 - LEVELS) ** width**2
    assert np.all(np.abs(found - expected) < 2 * intervals())
    assert np.all(np.sign(found - LEVELS) == np.sign(width - 1))
    assert np.all(np.abs(found - LEVELS) > 2 * intervals())
    test = ranks_of(truth, mean, width * factor)
    assert np.all(test.p_value < 1e-6)
    outer = test.counts[:, [0, -1]].sum(axis=1)
    assert np.all((outer > 4 * VOXELS / BINS) if width < 1 else (outer < VOXELS / BINS))


def test_biased_posteriors_are_found_out_in_their_parameter():
    truth, mean, factor = problem()
    mean = mean + np.array([[0.3], [0.0]])
    test = ranks_of(truth, mean, factor)
    assert test.p_value[0] < 1e-6
    assert test.p_value[1] > 1e-3
    assert test.counts[0, 0] > 2 * test.counts[0, -1]


def test_coverage_counts_voxels_up_to_the_level():
    level_of_truth = np.array([0.1, 0.5, 0.6, 0.94, 1.0, np.nan, 0.2, 0.96])
    found = calibration.coverage(LEVELS, level_of_truth)
    assert found.tolist() == [3 / 8, 4 / 8, 5 / 8]


def test_coverage_turns_down():
    with pytest.raises(ValueError, match="one voxel"):
        calibration.coverage(LEVELS, np.zeros(0))
    for level in (0.0, 1.0, 95.0, np.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            calibration.coverage(np.array([0.5, level]), np.ones(3))


def test_interval_is_that_of_a_binomial_share():
    assert calibration.coverage_interval(0.5, 100) == pytest.approx(0.0979982, abs=1e-7)
    low, high = stats.binom.interval(0.95, 10_000, 0.8)
    assert calibration.coverage_interval(0.8, 10_000) == pytest.approx(
        (high - low) / 2 / 10_000, abs=1e-4
    )  # the exact interval ends at whole voxels
    with pytest.raises(ValueError, match="one voxel"):
        calibration.coverage_interval(0.5, 0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibration.coverage_interval(1.0, 10)


def test_level_of_two_parameters_in_closed_form():
    """In the plane a distance d holds 1 - exp(-d^2 / 2); on a line erf(d / sqrt 2)."""
    factor = np.array([[2.0, 0.0], [1.0, 0.5]])[:, :, None]
    mean, white = np.array([[3.0], [-1.0]]), np.array([[0.6], [-0.8]])
    truth = mean + 1.5 * np.einsum("ijv,jv->iv", factor, white)
    found = calibration.gaussian_level(truth, mean, factor)
    assert found == pytest.approx(1 - np.exp(-1.125), abs=1e-12)
    line = calibration.gaussian_level(np.ones((1, 1)), np.zeros((1, 1)), np.full((1, 1, 1), 0.5))
    assert line == pytest.approx(0.9544997, abs=1e-7)


def test_level_does_not_change_with_units():
    truth, mean, factor = problem()
    scale = np.array([[1e-4], [1e5]])
    before = calibration.gaussian_level(truth, mean, factor)
    after = calibration.gaussian_level(scale * truth, scale * mean, scale[:, None] * factor)
    assert after == pytest.approx(before, abs=1e-9)


def test_distance_is_that_of_the_covariance():
    rng = np.random.default_rng(0)
    factor = np.tril(rng.standard_normal((50, 3, 3))) + 2 * np.eye(3)
    factor[:, [0, 1, 2], [0, 1, 2]] = rng.uniform(0.5, 2, (50, 3))
    points, mean = rng.standard_normal((4, 3, 50)), rng.standard_normal((3, 50))
    inverse = np.linalg.inv(factor @ factor.transpose(0, 2, 1))
    offset = points - mean
    expected = np.sqrt(np.einsum("miv,vij,mjv->mv", offset, inverse, offset))
    found = calibration.mahalanobis_distance(points, mean, np.moveaxis(factor, 0, -1))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("which", ["truth", "mean", "below", "pivot"])
def test_what_is_not_finite_or_singular_is_outside_and_changes_no_other_voxel(which):
    truth, mean, factor = problem()
    clean = calibration.gaussian_level(truth, mean, factor)
    if which == "pivot":
        factor[1, 1, 7] = 0
    elif which == "below":
        factor[1, 0, 7] = np.nan
    else:
        {"truth": truth, "mean": mean}[which][0, 7] = np.nan
    found = calibration.gaussian_level(truth, mean, factor)
    others = np.arange(VOXELS) != 7
    assert found[7] == 1
    assert clean[7] < 1
    np.testing.assert_array_equal(found[others], clean[others])


def test_samples_have_the_mean_and_covariance():
    mean = np.array([[1.0, -4.0], [2.0, 50.0]])
    factor = np.array([[[1.0, 3.0], [0.0, 0.0]], [[0.5, -2.0], [2.0, 0.1]]])
    count = 40_000
    samples = calibration.gaussian_samples(mean, factor, count, np.random.default_rng(0))
    for v in range(2):
        covariance = factor[:, :, v] @ factor[:, :, v].T
        sd = np.sqrt(np.diag(covariance))
        assert np.all(np.abs(samples[:, :, v].mean(axis=0) - mean[:, v]) < 5 * sd / np.sqrt(count))
        error = np.abs(np.cov(samples[:, :, v].T) - covariance)
        assert np.all(error < 5 * np.outer(sd, sd) * np.sqrt(2 / count))


def test_ranks_count_samples_below():
    samples = np.array([[[1.0, 5.0]], [[2.0, 5.0]], [[3.0, 7.0]]])
    assert calibration.sbc_ranks(np.array([[2.5, 5.0]]), samples).tolist() == [[2, 0]]
    assert calibration.sbc_ranks(np.array([[9.0, 6.0]]), samples).tolist() == [[3, 2]]
    with pytest.raises(ValueError, match="finite"):
        calibration.sbc_ranks(np.array([[np.nan, 6.0]]), samples)
    with pytest.raises(ValueError, match="finite"):
        calibration.sbc_ranks(np.array([[1.0, 6.0]]), np.where(samples == 7, np.inf, samples))


def test_rank_test_by_hand():
    """60 and 40 of 100 where 50 are expected: chi-square is 4 with one degree of freedom."""
    uneven = np.repeat([0, 1, 2, 3], [50, 10, 10, 30])
    even = np.repeat([0, 1, 2, 3], 25)
    test = calibration.rank_test(np.stack([uneven, even]), n_samples=3, bins=2)
    assert test.counts.tolist() == [[60, 40], [50, 50]]
    assert test.statistic == pytest.approx([4, 0])
    assert test.p_value == pytest.approx([0.0455003, 1], abs=1e-7)


def test_p_values_of_uniform_ranks_are_uniform():
    ranks = np.random.default_rng(0).integers(0, SAMPLES + 1, (400, 1000))
    p_values = calibration.rank_test(ranks, SAMPLES, BINS).p_value
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("ranks", "n_samples", "bins", "words"),
    [
        (np.zeros((1, 500), int), 100, 20, "equal bins"),
        (np.zeros((1, 500), int), 99, 1, "equal bins"),
        (np.zeros((1, 99), int), 99, 20, "at least 100 voxels"),
        (np.full((1, 500), 100), 99, 20, "between 0 and 99"),
        (np.full((1, 500), -1), 99, 20, "between 0 and 99"),
    ],
)
def test_rank_test_turns_down(ranks, n_samples, bins, words):
    with pytest.raises(ValueError, match=words):
        calibration.rank_test(ranks, n_samples, bins)
