"""Agreement: published examples, values known in closed form, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cestprep.diagnostics import agreement

#: Table 2 of Shrout & Fleiss (1979): six subjects by four judges.
SHROUT_FLEISS = [
    [9, 2, 5, 8],
    [6, 1, 3, 2],
    [8, 4, 6, 8],
    [7, 1, 2, 6],
    [10, 5, 6, 9],
    [6, 2, 4, 7],
]


def covariances(count, seed=0, p=2):
    """Positive-definite matrices of parameters with very different units, shape (p, p, V)."""
    root = np.random.default_rng(seed).standard_normal((count, p, p))
    root *= 10.0 ** np.arange(-2, p - 2)[:, None]
    return np.moveaxis(root @ root.transpose(0, 2, 1), 0, -1)


def picture(shape=(24, 20), seed=0):
    return np.random.default_rng(seed).uniform(1, 5, shape)


def test_nrmse_does_not_see_scale_and_equals_the_angle():
    angle = np.array([0.0, 0.02, 0.5])
    measured = np.stack([np.ones(3), np.zeros(3)])
    fitted = 3 * np.stack([np.cos(angle), np.sin(angle)])
    assert agreement.nrmse(measured, fitted) == pytest.approx(2 * np.sin(angle / 2), abs=1e-12)


def test_map_nrmse_is_over_the_range_of_the_reference_and_finite_voxels():
    reference = np.array([2.0, 4.0, 12.0, np.nan, 7.0])
    a = reference + np.array([3.0, -3.0, 3.0, 100.0, np.inf])
    assert agreement.map_nrmse(a, reference) == pytest.approx(0.3)
    assert agreement.map_nrmse(reference[:3], a[:3]) == pytest.approx(3 / 14)


def test_r_squared():
    reference = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
    assert agreement.r_squared(reference, reference) == 1
    assert agreement.r_squared(np.full(5, 2.5), reference) == pytest.approx(0)
    assert agreement.r_squared(reference + 1, reference) == pytest.approx(1 - 4 / 5)


@pytest.mark.parametrize("measure", [agreement.map_nrmse, agreement.r_squared])
def test_maps_that_cannot_be_compared(measure):
    with pytest.raises(ValueError, match="constant"):
        measure(np.arange(3.0), np.ones(3))
    with pytest.raises(ValueError, match="no voxel"):
        measure(np.array([np.nan, 1.0]), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="shapes differ"):
        measure(np.ones(3), np.ones(4))


def test_ssim_of_constant_maps():
    """Without structure only the first factor is left: (2 x y + C1) / (x^2 + y^2 + C1)."""
    x, y = 3.0, 4.0
    least = (0.01 * y) ** 2
    expected = (2 * x * y + least) / (x**2 + y**2 + least)
    everywhere = np.ones((9, 9), bool)
    found = agreement.ssim(np.full((9, 9), x), np.full((9, 9), y), everywhere)
    assert found == pytest.approx(expected, abs=1e-12)


def test_ssim_of_one_window_is_the_published_formula():
    a, reference = picture(seed=1), picture(seed=2)
    mask = np.zeros(a.shape, bool)
    mask[10, 12] = True
    x, y = (m[7:14, 9:16].ravel() for m in (a, reference))
    c1, c2 = (0.01 * reference[10, 12]) ** 2, (0.03 * reference[10, 12]) ** 2
    (vx, vxy), (_, vy) = np.cov(x, y)
    luminance = (2 * x.mean() * y.mean() + c1) / (x.mean() ** 2 + y.mean() ** 2 + c1)
    expected = luminance * (2 * vxy + c2) / (vx + vy + c2)
    assert agreement.ssim(a, reference, mask) == pytest.approx(expected, abs=1e-12)


def test_ssim_falls_with_noise():
    reference, noise = picture(), picture(seed=1) - 3
    mask = np.ones(reference.shape, bool)
    found = [agreement.ssim(reference + s * noise, reference, mask) for s in (0, 0.2, 1, 3)]
    assert found[0] == pytest.approx(1)
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.5


def test_ssim_of_a_volume_is_that_of_its_slices_by_their_voxels_in_the_mask():
    a, reference = picture((16, 16, 3), 1), picture((16, 16, 3), 2)
    mask = np.random.default_rng(3).random((16, 16, 3)) < [0.7, 0.2, 0]
    reference[0, 0, :2], mask[0, 0, :2] = 9, True  # one range for all slices
    per_slice = [agreement.ssim(a[..., z], reference[..., z], mask[..., z]) for z in (0, 1)]
    expected = np.average(per_slice, weights=mask.sum(axis=(0, 1))[:2])
    assert agreement.ssim(a, reference, mask) == pytest.approx(expected, abs=1e-12)


def test_ssim_counts_finite_voxels_of_the_mask_only():
    reference = picture()
    mask = np.zeros(reference.shape, bool)
    mask[12:, :] = True
    far = np.where(np.arange(24)[:, None] < 9, 0, reference)  # windows reach three voxels
    assert agreement.ssim(far, reference, mask) == pytest.approx(1)
    near = np.where(np.arange(24)[:, None] < 10, 0, reference)
    assert agreement.ssim(near, reference, mask) < 0.999
    far[15, 4], reference[20, 10] = np.nan, np.inf
    assert agreement.ssim(far, reference, mask) == pytest.approx(1)


@pytest.mark.parametrize(
    ("a", "mask", "words"),
    [
        (np.ones((8, 9)), np.ones((8, 8), bool), "shapes differ"),
        (np.ones((8, 8)), np.zeros((8, 8), bool), "no voxel"),
        (np.full((8, 8), np.nan), np.ones((8, 8), bool), "no voxel"),
        (np.zeros((8, 8)), np.ones((8, 8), bool), "positive"),
        (np.ones(8), np.ones(8, bool), "dimensions"),
        (np.ones((6, 8)), np.ones((6, 8), bool), "7x7"),
    ],
)
def test_ssim_turns_down(a, mask, words):
    with pytest.raises(ValueError, match=words):
        agreement.ssim(a, a, mask)


def test_icc_of_the_published_example():
    found = agreement.icc_2_1(np.array(SHROUT_FLEISS))
    assert round(found, 2) == 0.29
    between, judges, error = 11.24167, 32.48611, 1.01944  # mean squares, table 3 with more digits
    expected = (between - error) / (between + 3 * error + 4 * (judges - error) / 6)
    assert found == pytest.approx(expected, abs=1e-5)


def test_icc_is_of_absolute_agreement():
    x = np.array([1.0, 3.0, 4.0, 8.0])
    assert agreement.icc_2_1(np.stack([x, x], axis=1)) == pytest.approx(1)
    variance, offset = x.var(ddof=1), 2.0
    expected = 2 * variance / (2 * variance + offset**2)
    assert agreement.icc_2_1(np.stack([x, x + offset], axis=1)) == pytest.approx(expected)


def test_icc_leaves_out_subjects_that_are_not_finite():
    more = np.vstack([SHROUT_FLEISS, [1, np.nan, 2, 3], [np.inf, 1, 2, 3]])
    assert agreement.icc_2_1(more) == agreement.icc_2_1(np.array(SHROUT_FLEISS))


@pytest.mark.parametrize(
    ("ratings", "words"),
    [
        (np.ones((5, 2)), "no variance"),
        (np.arange(5.0)[:, None], "two judges"),
        (np.array([[1.0, 2.0], [np.nan, 1.0]]), "two subjects"),
    ],
)
def test_icc_turns_down(ratings, words):
    with pytest.raises(ValueError, match=words):
        agreement.icc_2_1(ratings)


@pytest.mark.parametrize("p", [1, 2, 4])
def test_distances_of_equal_posteriors_follow_chi(p):
    cov, mean = covariances(20_000, p=p), np.full((p, 20_000), 5.0)
    for distance in agreement.mahalanobis_both_ways(mean, cov, mean, cov, n_samples=1):
        assert stats.kstest(distance, stats.chi(p).cdf).pvalue > 1e-3
    standard_error = 0.5 / stats.chi(p).pdf(stats.chi(p).median()) / np.sqrt(20_000)
    assert np.median(distance) == pytest.approx(stats.chi(p).median(), abs=4 * standard_error)


def test_distances_tell_which_posterior_is_wider():
    cov, mean = covariances(20_000), np.zeros((2, 20_000))
    narrow, wide = agreement.mahalanobis_both_ways(mean, cov, mean, 4 * cov, n_samples=1)
    assert stats.kstest(2 * narrow, stats.chi(2).cdf).pvalue > 1e-3
    assert stats.kstest(wide / 2, stats.chi(2).cdf).pvalue > 1e-3


def test_median_is_over_samples_of_a_voxel():
    """Median of many samples comes near that of the distribution in every single voxel."""
    cov, mean = covariances(50), np.zeros((2, 50))
    both = agreement.mahalanobis_both_ways(mean, cov, mean, cov, n_samples=4001)
    standard_error = 0.5 / stats.chi(2).pdf(stats.chi(2).median()) / np.sqrt(4001)
    for distance in both:
        assert np.abs(distance - np.sqrt(2 * np.log(2))).max() < 5 * standard_error
        assert np.abs(distance.mean() - np.sqrt(2 * np.log(2))) < 0.02  # their mean is 1.253


def test_distance_of_a_sharp_posterior_is_that_of_its_mean():
    cov, count = covariances(200), 200
    shift = np.random.default_rng(1).uniform(1, 5, (2, count))
    expected = [np.sqrt(s @ np.linalg.inv(c) @ s) for s, c in zip(shift.T, cov.T, strict=True)]
    sharp, _ = agreement.mahalanobis_both_ways(shift, 1e-16 * cov, np.zeros((2, count)), cov)
    assert sharp == pytest.approx(np.array(expected), rel=1e-6)


def test_distances_do_not_change_with_units():
    cov_a, cov_b = covariances(100, 1), covariances(100, 2)
    mean_a, mean_b = np.random.default_rng(3).standard_normal((2, 2, 100))
    scale = np.array([1e-3, 1e4])
    before = agreement.mahalanobis_both_ways(mean_a, cov_a, mean_b, cov_b)
    means = [m * scale[:, None] for m in (mean_a, mean_b)]
    covs = [c * np.outer(scale, scale)[:, :, None] for c in (cov_a, cov_b)]
    after = agreement.mahalanobis_both_ways(means[0], covs[0], means[1], covs[1])
    for x, y in zip(before, after, strict=True):
        assert x == pytest.approx(y, rel=1e-9)


def test_a_direction_without_variance_has_the_least_that_float32_tells():
    """Parameters that rise together: 1e-6 of the variance is left for their difference."""
    line = np.ones((2, 2, 1)) * 0.25
    across = np.array([[1.0], [-1.0]]) / np.sqrt(2)
    sharp = 1e-14 * np.eye(2)[:, :, None]
    distance, _ = agreement.mahalanobis_both_ways(across, sharp, np.zeros((2, 1)), line)
    assert distance[0] == pytest.approx(1e3 / 0.5, rel=1e-3)
    rounded = line + np.array([[0, 1e-8], [1e-8, 0]])[:, :, None]  # indefinite, as float32 may be
    both = agreement.mahalanobis_both_ways(np.zeros((2, 1)), rounded, np.zeros((2, 1)), line)
    assert np.all(np.array(both) < 5)


@pytest.mark.parametrize(
    "damage",
    ["mean is NaN", "mean is infinite", "covariance is NaN", "zero", "negative", "indefinite"],
)
@pytest.mark.parametrize("first", [True, False])
def test_voxels_without_a_posterior_are_infinitely_far_and_change_no_other(damage, first):
    posteriors = [[np.zeros((2, 6)), covariances(6, seed)] for seed in (1, 2)]
    clean = agreement.mahalanobis_both_ways(*posteriors[0], *posteriors[1])
    mean, cov = posteriors[0 if first else 1]
    if damage == "mean is NaN":
        mean[1, 3] = np.nan
    elif damage == "mean is infinite":
        mean[1, 3] = np.inf
    elif damage == "covariance is NaN":
        cov[0, 1, 3] = np.nan
    elif damage == "zero":
        cov[..., 3] = 0
    elif damage == "negative":
        cov[0, 0, 3] *= -1
    else:
        cov[..., 3] = [[1, 1.1], [1.1, 1]]
    others = np.arange(6) != 3
    found = agreement.mahalanobis_both_ways(*posteriors[0], *posteriors[1])
    for x, y in zip(clean, found, strict=True):
        assert np.isposinf(y[3])
        np.testing.assert_array_equal(x[others], y[others])


def test_samples_are_those_of_the_seed():
    cov, mean = covariances(5), np.zeros((2, 5))
    first, again, other = (
        agreement.mahalanobis_both_ways(mean, cov, mean, cov, seed=seed)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)


def test_distances_turn_down_arrays_that_do_not_fit():
    mean, cov = np.zeros((2, 5)), covariances(5)
    with pytest.raises(ValueError, match="shapes differ"):
        agreement.mahalanobis_both_ways(mean, cov, mean[:, :4], cov)
    with pytest.raises(ValueError, match="do not fit"):
        agreement.mahalanobis_both_ways(mean, cov[..., :4], mean, cov[..., :4])
    with pytest.raises(ValueError, match="one sample"):
        agreement.mahalanobis_both_ways(mean, cov, mean, cov, n_samples=0)


def test_intervals():
    low_a, high_a = np.zeros((1, 7)), np.ones((1, 7))
    low_b = np.array([[0.5, 1.0, 1.1, -2.0, -2.0, np.nan, 0.8]])
    high_b = np.array([[2.0, 2.0, 2.0, -0.1, 3.0, 0.5, 0.2]])
    expected = [[True, True, False, False, True, False, False]]
    for ends in ((low_a, high_a, low_b, high_b), (low_b, high_b, low_a, high_a)):
        assert agreement.interval_intersection(*ends).tolist() == expected
    with pytest.raises(ValueError, match="shapes differ"):
        agreement.interval_intersection(low_a, high_a, low_b[:, :3], high_b[:, :3])


def test_contrast_to_uncertainty_by_hand():
    """Means 1 and 3, variance 2 and spread 1; means 7 and 7, variance 5: -5 / sqrt(4)."""
    one, two = np.array([[1.0, 3.0]]), np.array([[7.0, 7.0, np.nan, 9.0]])
    found = agreement.contrast_to_uncertainty(
        one, np.array([[1.0, 3.0]]), two, np.array([[4.0, 6.0, 1.0, np.inf]])
    )
    assert found == pytest.approx(-5 / np.sqrt(4))


def test_contrast_to_uncertainty_is_equation_9_with_many_samples():
    rng = np.random.default_rng(0)
    regions = [
        (rng.normal(centre, 1.5, (2, size)), rng.uniform(0.5, 4, (2, size)))
        for centre, size in ((3, 40), (1, 60))
    ]
    mu = [mean.mean(axis=1) for mean, _ in regions]
    total = [
        np.mean((rng.normal(m, np.sqrt(v), (20_000, *m.shape)) - c[:, None]) ** 2, axis=(0, 2))
        for (m, v), c in zip(regions, mu, strict=True)
    ]
    expected = (mu[0] - mu[1]) / np.sqrt((total[0] + total[1]) / 2)
    found = agreement.contrast_to_uncertainty(*regions[0], *regions[1])
    assert found == pytest.approx(expected, rel=5e-3)  # SE of the samples' SD: 1e-3


def test_contrast_to_uncertainty_turns_down():
    mean, variance = np.ones((1, 3)), np.ones((1, 3))
    with pytest.raises(ValueError, match="no finite voxel"):
        agreement.contrast_to_uncertainty(mean, variance, mean * np.nan, variance)
    with pytest.raises(ValueError, match="any uncertainty"):
        agreement.contrast_to_uncertainty(mean, 0 * variance, mean, 0 * variance)
    with pytest.raises(ValueError, match="shapes differ"):
        agreement.contrast_to_uncertainty(mean, variance[:, :2], mean, variance)
