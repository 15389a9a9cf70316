"""Errors of place in maps."""

from __future__ import annotations

import numpy as np
import pytest

from cestprep.imaging.uncertainty import place_sd


def test_a_slope_is_as_uncertain_as_its_place():
    x, y, z = np.indices((6, 7, 8)).astype(float)
    found = place_sd(3 * x + 4 * z, np.ones(x.shape, bool), 0.2)
    np.testing.assert_allclose(found, 5 * 0.2)
    assert not place_sd(np.full(x.shape, 2.0), np.ones(x.shape, bool), 0.2).any()
    assert y.shape == found.shape


def test_what_is_not_known_takes_no_part():
    volume = np.zeros((5, 5, 5))
    known = np.ones(volume.shape, bool)
    known[2, 2, 2] = False
    volume[2, 2, 2] = 1e6
    assert not place_sd(volume, known, 0.2).any()


def test_coverage_of_a_displaced_map():
    """Errors of a map shifted by a random part of a voxel are covered where it is smooth."""
    rng = np.random.default_rng(0)
    axes = np.indices((30, 30, 30)).astype(float)
    ways = rng.standard_normal((200, 3))
    wave = 0.25
    true = np.sin(wave * axes).sum(axis=0)
    sd = place_sd(true, np.ones(true.shape, bool), 0.2)
    inner = (slice(2, -2),) * 3
    covered = []
    for way in ways:
        moved = np.sin(wave * (axes + 0.2 * way[:, None, None, None])).sum(axis=0)
        covered.append(np.mean((np.abs(moved - true) < sd)[inner]))
    assert np.mean(covered) == pytest.approx(0.68, abs=0.05)
