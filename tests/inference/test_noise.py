"""Noise level: each source found where it holds, turned down where it does not, in order."""

from __future__ import annotations

import numpy as np
import pytest

from cestprep.inference import noise


def rician(signal, sd, seed=0):
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((2, *np.shape(signal))) * sd
    return np.hypot(signal + parts[0], parts[1])


def test_background_is_corrected_for_its_distribution():
    """A plain SD of Rayleigh magnitudes would be 0.655 of the noise's."""
    assert noise.background_sd(rician(np.zeros(5000), 3.0)) == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(5000),
        rician(np.zeros(100), 3.0),
        rician(np.full(5000, 20.0), 3.0),
        np.where(np.arange(5000) % 3, rician(np.zeros(5000), 3.0), 0.0),
        np.linalg.norm(np.random.default_rng(0).standard_normal((16, 5000)), axis=0),
        np.full(5000, np.nan),
    ],
    ids=["masked", "few", "object", "partly masked", "many coils", "NaN"],
)
def test_background_that_is_not_one_coil_of_air_is_turned_down(samples):
    assert noise.background_sd(samples) is None


@pytest.mark.parametrize("count", [2, 3, 6])
def test_repeats(count):
    signal = np.random.default_rng(1).uniform(100, 300, 4000)
    repeats = np.stack([rician(signal, 2.0, seed) for seed in range(count)])
    repeats[0, :40] += 500  # a vessel that pulsates
    assert noise.repeated_sd(repeats) == pytest.approx(2.0, rel=0.05)


def test_repeats_of_another_level_are_turned_down():
    signal = np.full(4000, 200.0)
    assert noise.repeated_sd(np.stack([rician(signal, 2), rician(0.7 * signal, 2, 1)])) is None
    assert noise.repeated_sd(rician(signal, 2)[None]) is None


def test_order_of_sources():
    air, repeats = rician(np.zeros(5000), 3.0), rician(np.full((2, 4000), 200.0), 2.0)
    assert noise.find(5.0, air, repeats) == noise.Noise(5.0, "option")
    assert noise.find(None, air, repeats).source == "background"
    assert noise.find(None, np.zeros(5000), repeats).source == "repeated M0"
    assert noise.find(None, None, None) is None
