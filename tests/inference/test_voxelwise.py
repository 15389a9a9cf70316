"""The voxelwise method: recovery, an independent fit, honest uncertainty, codes."""

from __future__ import annotations

import dataclasses

import independent_fit
import numpy as np
import problems
import pytest

from cestprep.inference import least_squares
from cestprep.inference.estimate import Validity, high_nrmse
from cestprep.inference.methods.voxelwise import estimate
from cestprep.inference.problem import Observation
from cestprep.inference.recipe import FreeParameter


def mt_truth(n, seed=3):
    rng = np.random.default_rng(seed)
    return np.array([rng.uniform(0.05, 0.15, n), rng.uniform(20, 60, n)])


@pytest.mark.parametrize("pulsed", [False, True], ids=["cw", "spinlock"])
def test_noise_free_signals_give_their_parameters_back(pulsed):
    problem = problems.problem(pulsed=pulsed)
    truth, known = mt_truth(40), problems.known(problem, 40)
    found = estimate(problem, problems.observe(problem, truth, known, sd=0))
    np.testing.assert_allclose(found.mean, truth, rtol=5e-3)
    assert (found.nrmse < 1e-4).all()
    assert found.valid.all()


@pytest.mark.parametrize("normalization", ["unit-norm", "m0"])
def test_standard_deviations_are_those_of_the_errors(normalization):
    """Errors over reported SD have unit spread: 600 voxels know it to 3 %; 12 % are allowed."""
    problem = problems.problem(normalization=normalization)
    n = 600
    truth, known = mt_truth(n), problems.known(problem, n)
    found = estimate(problem, problems.observe(problem, truth, known, sd=0.004))
    z = (found.mean - truth) / found.sd
    inside = found.validity == Validity.OK
    assert inside.mean() > 0.97
    np.testing.assert_allclose(z[:, inside].std(axis=1), 1, atol=0.12)
    d = found.mean - truth
    mahalanobis = np.einsum(
        "iv,vij,jv->v", d, np.linalg.inv(np.moveaxis(found.covariance, 2, 0)), d
    )
    # 95 % region with 28 degrees of freedom for the noise: F distribution, 2 x 3.34
    assert np.mean(mahalanobis[inside] < 6.68) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(("name", "relative_sd"), [("t1", 0.02), ("b1_scale", 0.03)])
def test_uncertainty_of_known_parameters_is_carried_on(name, relative_sd):
    problem = problems.problem()
    n = 400
    truth, known = mt_truth(n), problems.known(problem, n)
    observation = problems.observe(problem, truth, known, sd=0.002)
    row = problem.known_parameters.index(name)
    sd = relative_sd * known[row]
    wrong = known.copy()
    wrong[row] += sd * np.random.default_rng(9).standard_normal(n)
    covariance = np.zeros((len(known), len(known), n))
    covariance[row, row] = sd**2
    told = estimate(problem, Observation(observation.data, wrong, covariance))
    untold = estimate(problem, Observation(observation.data, wrong, 0 * covariance))
    spread = [np.std(((e.mean - truth) / e.sd)[0, e.valid]) for e in (told, untold)]
    assert spread[0] == pytest.approx(1, abs=0.12)
    assert spread[1] > 1.8  # the test would otherwise not see the propagation


@pytest.mark.parametrize(
    ("parameter", "low", "high", "true"),
    [("t1", 0.5, 4.0, 1.6), ("b1_scale", 0.5, 1.5, 0.93), ("b0_ppm", -0.5, 0.5, 0.12)],
)
def test_any_parameter_can_be_free(parameter, low, high, true):
    base = problems.problem("amide")
    fixed = {"b0_ppm": 0.05, "t1": 1.5, "b1_scale": 1.05}
    n = 20
    values = dict(zip(base.known_parameters, problems.known(base, n, **fixed), strict=True))
    values[parameter] = np.full(n, true)
    free = FreeParameter("x", parameter, low, high, "1")
    problem = dataclasses.replace(
        base,
        free=(free,),
        constants=(*base.constants, ("amide.fraction", 0.003), ("amide.k_exchange", 200.0)),
        known_parameters=tuple(k for k in base.known_parameters if k != parameter),
    )
    known = np.array([values[k] for k in problem.known_parameters])
    found = estimate(problem, problems.observe(problem, np.full((1, n), true), known, sd=0))
    np.testing.assert_allclose(found.mean[0], true, rtol=2e-3)


def test_free_scale_fits_m0_and_agrees_with_unit_norm():
    unit = problems.problem()
    scaled = dataclasses.replace(
        unit,
        free=(*unit.free, FreeParameter("m0", "m0", 0.5, 3.0, "1")),
        normalization="free-scale",
    )
    n = 30
    truth, known = mt_truth(n), problems.known(unit, n)
    observation = problems.observe(unit, truth, known, sd=0.004)
    by_norm, by_scale = (estimate(p, observation) for p in (unit, scaled))
    np.testing.assert_allclose(by_scale.mean[:2], by_norm.mean, rtol=5e-3)
    np.testing.assert_allclose(by_scale.sd[:2], by_norm.sd, rtol=0.05)
    np.testing.assert_allclose(by_scale.mean[2], 1 / observation.data.max(axis=0), rtol=0.02)


def test_agrees_with_independent_scipy_fit():
    """Generated look-alike of the fit on real mice."""
    problem = problems.problem()
    n = 6
    truth = mt_truth(n)
    known = problems.known(problem, n, b0_ppm=0.0, b1_scale=1.0)
    observation = problems.observe(problem, truth, known, sd=0.01)
    found = estimate(problem, observation)
    rows = [
        (v.recovery_s, v.saturation and (v.saturation.offset_ppm, v.saturation.b1_ut, 2.5))
        for v in problem.protocol.volumes
    ]
    for i in range(n):
        water = {"t1": known[0, i], "t2": known[1, i], "b0": 0.0, "b1": 1.0}

        def pools(theta):
            return [{"kind": "mt", "f": theta[0], "k": theta[1], "t2": 40e-6, "shift": 0.0}]

        theta, nrmse = independent_fit.fit(
            rows, 298.03, pools, water, observation.data[:, i], problem.bounds,
            [(0.2, 0.2), (0.6, 0.2), (0.3, 0.7)],
        )  # fmt: skip
        assert found.nrmse[i] == pytest.approx(nrmse, rel=5e-3)
        assert np.abs(found.mean[:, i] - theta).max() < (0.1 * found.sd[:, i]).max()


def test_voxels_do_not_depend_on_their_neighbours():
    problem = problems.problem()
    n = 50
    truth, known = mt_truth(n), problems.known(problem, n)
    observation = problems.observe(problem, truth, known, sd=0.005)
    together = estimate(problem, observation)
    order = np.random.default_rng(0).permutation(n)[:20]
    small = least_squares.Options(chunk_memory_mb=0.01)
    apart = estimate(problem, observation.take(order), options=small)
    np.testing.assert_allclose(apart.mean, together.mean[:, order], rtol=2e-3)
    assert np.abs((apart.mean - together.mean[:, order]) / together.sd[:, order]).max() < 0.01


def test_codes_of_bad_voxels():
    problem = problems.problem()
    n = 60
    truth, known = mt_truth(n), problems.known(problem, n)
    observation = problems.observe(problem, truth, known, sd=0.002)
    data = observation.data.copy()
    data[:, 0] = 0
    data[3, 1] = np.nan
    data[7, 2] *= 4  # one spiked volume
    data[:, 3] = data[0, 3]  # no saturation at all
    found = estimate(problem, Observation(data, known, observation.known_covariance))
    assert found.validity[0] == found.validity[1] == Validity.NO_SIGNAL
    assert found.validity[2] == Validity.MISFIT
    assert found.validity[3] in (Validity.AT_BOUND, Validity.MISFIT)
    assert (found.validity[4:] == Validity.OK).mean() > 0.95
    assert not found.valid[:3].any()
    for array in found.arrays().values():
        assert np.isfinite(array).all()


def test_impossible_physics_is_never_called_ok():
    problem = problems.problem()
    n = 8
    truth, known = mt_truth(n), problems.known(problem, n)
    observation = problems.observe(problem, truth, known, sd=0.002)
    rows = {name: i for i, name in enumerate(problem.known_parameters)}
    known[rows["t1"], 0] = 1e-30
    known[rows["b1_scale"], 1] = 1e20
    known[rows["b0_ppm"], 2] = np.nan
    found = estimate(problem, Observation(observation.data, known, observation.known_covariance))
    assert not found.valid[:3].any()
    assert found.valid[3:].all()
    for array in found.arrays().values():
        assert np.isfinite(array).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale_of_the_scanner(scale):
    problem = problems.problem()
    truth, known = mt_truth(5), problems.known(problem, 5)
    observation = problems.observe(problem, truth, known, sd=0)
    found = estimate(problem, dataclasses.replace(observation, data=scale * observation.data))
    np.testing.assert_allclose(found.mean, truth, rtol=5e-3)
    np.testing.assert_allclose(found.fitted, scale * observation.data, rtol=1e-3)


def test_a_few_voxels_are_never_called_outliers():
    assert not high_nrmse(np.array([0.01, 0.01, 0.5]), np.ones(3, bool)).any()
