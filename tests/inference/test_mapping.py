"""Maps of T1, T2, B0 and B1: exact signals come back, noise has the SD that is stated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cestprep.inference import mapping
from cestprep.inference.curves import fit_curve
from cestprep.physics import relaxometry, simulate
from cestprep.physics.pools import PoolModel
from cestprep.physics.protocol import Protocol, Readout, Recovery, Saturation, Spoil

DELAYS = np.geomspace(10, 0.1, 12)
ECHOES = np.linspace(0, 1, 11)
OFFSETS = np.linspace(-1.8, 1.8, 24)
PULSE, FREQUENCY = (0.005, 3.7), 127.73
VOXELS = 2000


def uniform(rng, low, high):
    return rng.uniform(low, high, VOXELS).astype(np.float32)


def scan(kind, rng):
    """Clean signals (n, V), the true values, and the curve to fit."""
    m0 = uniform(rng, 300, 900)
    if kind == "t1":
        truth = uniform(rng, 0.5, 4.5)
        clean = relaxometry.saturation_recovery(m0, truth, DELAYS)
        return clean, truth[None], [1], mapping.t1_curve(tuple(DELAYS))
    if kind == "t2":
        truth = uniform(rng, 0.03, 0.5)
        clean = relaxometry.transverse_decay(m0, truth, ECHOES)
        return clean, truth[None], [1], mapping.t2_curve(tuple(ECHOES))
    b0 = uniform(rng, -0.8, 0.8)
    if kind == "wassr":
        clean = m0 * relaxometry.wassr(b0, 1.0, uniform(rng, 0.5, 0.95), 0.4, OFFSETS / 2)
        return clean, b0[None], [0], mapping.wassr_curve(tuple(OFFSETS / 2))
    b1 = uniform(rng, 0.55, 1.4)
    level, depth = uniform(rng, 0.8, 1), uniform(rng, 1.4, 1.8)
    clean = m0 * relaxometry.wasabi(b0, b1, level, depth, OFFSETS, PULSE, FREQUENCY)
    return (clean, np.stack([b0, b1]), [0, 1],
            mapping.wasabi_curve(tuple(OFFSETS), PULSE, FREQUENCY))  # fmt: skip


KINDS = ("t1", "t2", "wasabi", "wassr")


@pytest.mark.parametrize("kind", KINDS)
def test_exact_signals_come_back(kind):
    clean, truth, rows, curve = scan(kind, np.random.default_rng(0))
    found = fit_curve(curve, np.asarray(clean))
    scale = 1.0 if kind in ("wasabi", "wassr") else truth
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


def test_wasabi_of_relaxing_water_has_no_wrong_minimum():
    """By the Bloch equations, with T1 and T2 of tissue, which the equation does not know."""
    rng = np.random.default_rng(2)
    truth = {
        "b0_ppm": uniform(rng, -0.7, 0.7), "b1_scale": uniform(rng, 0.6, 1.3),
        "t1": uniform(rng, 0.8, 4), "t2": uniform(rng, 0.05, 0.5), "m0": np.ones(VOXELS),
    }  # fmt: skip
    blocks = [Recovery(12.0), Readout(15.0, 45, 0.004)]
    for offset in OFFSETS:
        blocks += [Recovery(3.0), Saturation(float(offset), PULSE[1], PULSE[0]), Spoil(),
                   Readout(15.0, 45, 0.004)]  # fmt: skip
    protocol = Protocol(tuple(blocks), FREQUENCY, (True, *(False,) * len(OFFSETS)))
    clean = np.abs(simulate.signal(protocol, PoolModel(()), truth))[1:]
    found = fit_curve(mapping.wasabi_curve(tuple(OFFSETS), PULSE, FREQUENCY), clean)
    error_b0 = found.theta[0] - truth["b0_ppm"]
    assert np.mean(np.abs(error_b0) > 0.1) < 1e-3
    assert np.std(error_b0) < 0.005


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


def test_double_angle():
    angle = np.deg2rad(60)
    scale = np.linspace(0.5, 1.3, 9)
    single = np.sin(scale * angle)
    double = np.sin(2 * scale * angle)
    np.testing.assert_allclose(relaxometry.double_angle_b1(single, double, angle), scale, rtol=1e-5)
    assert np.isnan(relaxometry.double_angle_b1(1.0, 3.0, angle))
