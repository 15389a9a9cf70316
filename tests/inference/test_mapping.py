"""Maps of T1, T2, B0 and B1: exact signals come back, noise has the SD that is stated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cestprep.inference import mapping
from cestprep.inference.curves import fit_curve
from cestprep.physics import relaxometry

DELAYS = np.geomspace(10, 0.1, 12)
ECHOES = np.linspace(0, 1, 11)
OFFSETS = np.linspace(-1.8, 1.8, 24)
VOXELS = 2000


def uniform(rng, low, high):
    return rng.uniform(low, high, VOXELS).astype(np.float32)


def scan(kind, rng):
    """Clean signals (n, V), the true values, and the curve to fit."""
    m0 = uniform(rng, 300, 900)
    if kind == "t1":
        truth = uniform(rng, 0.5, 4.5)
        clean = np.asarray(relaxometry.saturation_recovery(m0, truth, DELAYS))
        return clean, truth[None], [1], mapping.t1_curve(tuple(DELAYS))
    if kind == "t2":
        truth = uniform(rng, 0.03, 0.5)
        clean = np.asarray(relaxometry.transverse_decay(m0, truth, ECHOES))
        return clean, truth[None], [1], mapping.t2_curve(tuple(ECHOES))
    b0 = uniform(rng, -0.8, 0.8)
    clean = m0 * relaxometry.wassr(b0, 1.0, uniform(rng, 0.5, 0.95), 0.4, OFFSETS / 2)
    return clean, b0[None], [0], mapping.wassr_curve(tuple(OFFSETS / 2))


KINDS = ("t1", "t2", "wassr")


@pytest.mark.parametrize("kind", KINDS)
def test_exact_signals_come_back(kind):
    clean, truth, rows, curve = scan(kind, np.random.default_rng(0))
    found = fit_curve(curve, np.asarray(clean))
    scale = 1.0 if kind == "wassr" else truth
    wrong = np.abs((found.theta[rows] - truth) / scale).max(axis=0) > 2e-3
    assert wrong.mean() < 2e-3  # of magnitudes, whose kinks can hold a fit
    assert (found.r_squared[~wrong] > 0.9999).all()
    assert not found.at_bound.any()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_stated_sds_are_those_of_the_errors(kind, known):
    rng = np.random.default_rng(1)
    clean, truth, rows, curve = scan(kind, rng)
    sd = 6.0
    noise = sd * rng.standard_normal((2, *clean.shape))
    noisy = np.hypot(clean + noise[0], noise[1])
    if kind == "t2" and not known:  # without its SD the floor of the noise biases long echoes
        noisy = clean + noise[0]
    found = fit_curve(curve, noisy, sd if known else None)
    assert found.converged.mean() > 0.999
    z = (found.theta[rows] - truth) / found.sd[rows]
    normal = stats.norm() if known else stats.t(len(clean) - len(found.theta))
    for row in z:
        for within in (1, 2):
            share = normal.cdf(within) - normal.cdf(-within)
            assert np.mean(np.abs(row) < within) == pytest.approx(share, abs=0.03)
        assert abs(np.median(row)) < 0.1


def test_a_voxel_without_signal_fails_and_disturbs_no_other():
    clean, truth, _, curve = scan("t1", np.random.default_rng(3))
    data = np.array(clean)
    data[:, 7] = 0
    found = fit_curve(curve, data)
    assert not found.converged[7]
    assert np.isfinite(found.theta).all()
    others = np.delete(np.arange(VOXELS), 7)
    assert found.converged[others].all()
    assert np.abs(found.theta[1, others] / truth[0, others] - 1).max() < 2e-3


def test_voxels_do_without_signals_that_are_missing():
    """The same as a fit of the others alone; with as few signals as parameters it fails."""
    rng = np.random.default_rng(4)
    clean, _, _, curve = scan("t1", rng)
    noisy = clean + 4.0 * rng.standard_normal(clean.shape)
    seen = np.ones(noisy.shape, bool)
    seen[[1, 8]] = False
    seen[2:, 5] = False
    found = fit_curve(curve, np.where(seen, noisy, 1e4), seen=seen)
    kept = [i for i in range(len(DELAYS)) if i not in (1, 8)]
    alone = fit_curve(mapping.t1_curve(tuple(DELAYS[kept])), noisy[kept])
    others = np.delete(np.arange(VOXELS), 5)
    for name in ("theta", "sd"):
        got, asked = (getattr(fit, name)[1, others] for fit in (found, alone))
        assert np.mean(np.abs(got / asked - 1) > 0.01) < 0.005
    assert not found.converged[5]


def test_floor_of_noise_is_not_the_noise_after_interpolation():
    """Long echoes at the floor; the residual says how far signals scatter."""
    rng = np.random.default_rng(5)
    clean, truth, _, curve = scan("t2", rng)
    raw, left = 50.0, 4.0
    lifted = np.hypot(clean, raw) + left * rng.standard_normal(clean.shape)
    found = fit_curve(curve, lifted, floor_sd=raw)
    assert np.median(found.theta[1] / truth[0]) == pytest.approx(1, abs=0.01)
    z = (found.theta[1] - truth[0]) / found.sd[1]
    normal = stats.t(len(clean) - 2)
    assert np.mean(np.abs(z) < 1) == pytest.approx(normal.cdf(1) - normal.cdf(-1), abs=0.04)
    ignored = fit_curve(curve, lifted)
    assert np.median(ignored.theta[1] / truth[0]) > 1.03


def test_double_angle():
    angle = np.deg2rad(60)
    scale = np.linspace(0.5, 1.3, 9)
    single = np.sin(scale * angle)
    double = np.sin(2 * scale * angle)
    np.testing.assert_allclose(relaxometry.double_angle_b1(single, double, angle), scale, rtol=1e-5)
    rng = np.random.default_rng(6)
    pair = np.repeat(np.stack([single, double])[:, :, None], 4000, axis=2).reshape(2, -1)
    noisy = (pair + 0.01 * rng.standard_normal(pair.shape)).astype(np.float32)
    value, sd = mapping.double_angle(noisy, angle, 0.01)
    z = (value - np.repeat(scale, 4000)) / sd
    assert np.mean(np.abs(z) < 1) == pytest.approx(0.683, abs=0.02)
    assert np.isnan(relaxometry.double_angle_b1(1.0, 3.0, angle))
