"""The reference posterior: against brute force and scipy, calibrated, resolved."""

from __future__ import annotations

import dataclasses

import numpy as np
import problems
import pytest
from scipy.stats import multivariate_normal

from cestprep.inference import answers, grid, likelihood, unconstrained
from cestprep.inference.likelihood import Voxels
from cestprep.inference.measured import Measured
from cestprep.inference.methods import grid as method
from cestprep.inference.residual import departures, voxels_of

SD = 0.01
RELATIVE_SD = {"t1": 0.027, "t2": 0.027}
ABSOLUTE_SD = {"b0_ppm": 0.006, "b1_scale": 0.005}


@pytest.fixture(scope="module")
def drawn():
    """A spin-lock problem, truths from the prior, maps with errors of known size."""
    problem = problems.problem(pulsed=True, frequency_mhz=127.73)
    problem = dataclasses.replace(problem, solver="reduced")
    n, rng = 256, np.random.default_rng(11)
    low, high = problem.bounds.T[:, :, None]
    truth = low + (high - low) * rng.random((2, n))
    known = problems.known(problem, n)
    names = problem.known_parameters
    sd = np.array([RELATIVE_SD.get(k, 0) * known[i] + ABSOLUTE_SD.get(k, 0)
                   for i, k in enumerate(names)])  # fmt: skip
    seen = known + sd * rng.standard_normal(known.shape)
    observation = problems.observe(problem, truth, known, SD)
    observation = dataclasses.replace(
        observation,
        known=seen,
        known_covariance=np.einsum("iv,ij->ijv", sd**2, np.eye(len(names))),
        noise_sd=np.full(n, SD),
        noise_source="option",
    )
    return problem, truth, observation


@pytest.fixture(scope="module")
def found(drawn):
    problem, _, observation = drawn
    voxels = voxels_of(Measured.of(problem, observation))
    return voxels, grid.explore_all(problem, voxels)


def test_likelihood_is_that_of_scipy(x64):
    rng = np.random.default_rng(0)
    carried, residual = rng.standard_normal((3, 9)), rng.standard_normal(9)
    metric = likelihood.metric(carried[..., None], np.array([0.7]))
    got = likelihood.log_likelihood(metric, residual[:, None])[0]
    whole = multivariate_normal(np.zeros(9), 0.49 * np.eye(9) + carried.T @ carried)
    constant = -4.5 * np.log(2 * np.pi * 0.49)
    assert got + constant == pytest.approx(whole.logpdf(residual), rel=1e-10)


def test_scores_are_those_of_generalized_least_squares(x64):
    """Each error's estimate after the free parameters, over its SD without them, by matrices."""
    rng = np.random.default_rng(1)
    carried, jacobian = rng.standard_normal((3, 9)), rng.standard_normal((2, 9))
    residual = rng.standard_normal(9)
    metric = likelihood.metric(carried[..., None], np.array([0.7]))
    arrays = (x[..., None] for x in (carried, jacobian, residual))
    got = np.asarray(likelihood.scores(metric, *arrays))[:, 0]
    inverse = np.linalg.inv(0.49 * np.eye(9) + carried.T @ carried)
    inner = jacobian @ inverse @ jacobian.T
    left = inverse - inverse @ jacobian.T @ np.linalg.solve(inner, jacobian @ inverse)
    for error, score in zip(carried, got, strict=True):
        want = error @ left @ residual / np.sqrt(error @ left @ error)
        assert score == pytest.approx(want, rel=1e-10)


def test_scores_are_standard_normal_and_name_a_wrong_map(drawn):
    """256 voxels know a spread to 4.4 %, three times that; T1 20 % too long, ten of its SD."""
    problem, truth, observation = drawn
    t1 = problem.known_parameters.index("t1")
    known = observation.known.copy()
    known[t1] *= 1.2
    clean, wrong = (
        np.asarray(departures(Measured.of(problem, seen), truth.astype(np.float32)).scores)
        for seen in (observation, dataclasses.replace(observation, known=known))
    )
    np.testing.assert_allclose(clean.std(axis=1), 1, atol=0.14)
    assert (np.abs(wrong).argmax(axis=0) == t1).mean() > 0.8
    assert np.median(np.abs(wrong[t1])) > 3


def test_interpolated_metric_and_zoom_agree_with_brute_force(drawn, found):
    """Mean and covariance from a plain fine grid over the box, everything exact in each cell."""
    problem, _, _ = drawn
    voxels, posterior = found
    low, high = problem.bounds.T
    for v in (0, 7):
        centre = np.asarray(posterior.summary.mean)[:, v]
        sd = np.sqrt(np.einsum("iiv->iv", posterior.summary.covariance))[:, v]
        axes = [np.linspace(max(low[i], centre[i] - 6 * sd[i]), min(high[i], centre[i] + 6 * sd[i]),
                            81) for i in range(2)]  # fmt: skip
        theta = np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")]).astype(np.float32)
        many = Voxels(*(np.repeat(x[..., v, None], theta.shape[1], axis=-1) for x in voxels))
        residual = many.data - problem.predict(theta, many.known)
        metric = likelihood.metric(likelihood.carried(problem, theta, many), many.noise)
        log = np.asarray(likelihood.log_likelihood(metric, residual), float)
        weight = np.exp(log - log.max())
        mean = (theta * weight).sum(axis=1) / weight.sum()
        away = theta - mean[:, None]
        covariance = (away * weight) @ away.T / weight.sum()
        assert (np.abs(centre - mean) < 0.03 * sd).all()
        got = np.asarray(posterior.summary.covariance)[:, :, v]
        np.testing.assert_allclose(got, covariance, rtol=0.05, atol=0.05 * np.outer(sd, sd).min())


def test_regions_hold_the_truth_as_often_as_they_say(drawn, found):
    """256 draws know a share of 50 % to 3.1 points and of 95 % to 1.4; three times that."""
    problem, truth, _ = drawn
    voxels, posterior = found
    assert not posterior.thin.any()
    places = grid.places(problem, posterior, voxels, truth)
    mass = np.asarray(places.above)
    for level in (0.5, 0.8, 0.95):
        share = (mass < level).mean()
        assert share == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / mass.size))
    middle = np.asarray(places.below).mean(axis=1)
    np.testing.assert_allclose(middle, 0.5, atol=3 * np.sqrt(1 / 12 / mass.size))


def test_ignoring_errors_of_the_maps_is_overconfident(drawn, found):
    """Regions of 95 % hold few truths where errors are there but count as 1000 times smaller.

    (Zeros would be another program, and its compilation most of this test.)
    """
    problem, truth, observation = drawn
    small = dataclasses.replace(observation, known_covariance=1e-6 * observation.known_covariance)
    voxels = voxels_of(Measured.of(problem, small))
    inside = [
        (np.asarray(grid.places(problem, posterior, given, truth).above) < 0.95).mean()
        for given, posterior in (found, (voxels, grid.explore_all(problem, voxels)))
    ]
    assert inside[0] > 0.88
    assert inside[1] < 0.80


def test_refinement_finds_the_same_posterior(drawn, found):
    """From a poor first answer: median Mahalanobis distance of 10 samples near 1.18 both ways."""
    problem, truth, observation = drawn
    voxels, posterior = found
    first = np.asarray(unconstrained.to_u(problem, truth.astype(np.float32))) + 0.5
    measured = Measured.of(problem, observation)
    mode, local = found = answers.local_posteriors(measured, voxels, first)
    assert np.asarray(mode.converged).mean() > 0.9
    sd = np.sqrt(np.einsum("iiv->iv", posterior.summary.covariance))
    away = np.abs(np.asarray(local.mean) - np.asarray(posterior.summary.mean)) / sd
    assert np.median(away) < 0.1
    ratio = np.sqrt(np.einsum("iiv->iv", local.covariance)) / sd
    assert np.median(ratio) == pytest.approx(1, abs=0.05)
    for got, asked in (
        (local.lower, posterior.summary.lower),
        (local.upper, posterior.summary.upper),
    ):
        away = (np.asarray(got) - np.asarray(asked)) / sd
        assert np.abs(np.median(away, axis=1)).max() < 0.1
        assert np.abs(away).mean() < 0.15
    places = answers.places(problem, voxels, found, truth)
    reference = grid.places(problem, posterior, voxels, truth)
    for level in (0.5, 0.8, 0.95):
        share = (np.asarray(places.above) < level).mean()
        assert share == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / truth.shape[1]))
    assert np.abs(np.asarray(places.below) - np.asarray(reference.below)).mean() < 0.03


def test_no_mass_is_cut_off(drawn, found):
    """Thin ridges run between the cells of a search; the last box holds them all the same."""
    _, posterior = found
    low, high = drawn[0].bounds.T[:, :, None]
    straight = ~np.asarray(posterior.curved)
    assert straight.mean() > 0.9
    width = posterior.box.high - posterior.box.low
    inner = posterior.box.low > low + 1e-6 * width, posterior.box.high < high - 1e-6 * width
    for mass, free in zip(posterior.end.outermost, inner, strict=True):
        assert np.where(free & straight, mass, 0).max() < 1e-3


def test_estimate_flags_and_intervals(drawn):
    problem, _, observation = drawn
    few = observation.take(np.arange(16))
    few.data[:, 3] = np.nan
    estimate = method.estimate(problem, few)
    assert estimate.validity[3] == 8
    good = estimate.valid
    assert good.sum() >= 13
    assert (estimate.lower[:, good] < estimate.mean[:, good]).all()
    assert (estimate.upper[:, good] > estimate.mean[:, good]).all()
