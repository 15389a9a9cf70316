"""Motion within WASABI, whose bands follow the fields."""

from __future__ import annotations

from dataclasses import replace

import heads
import numpy as np
import pytest

from cestprep.imaging import alignment, wasabi
from cestprep.imaging.registration import THOROUGH
from cestprep.imaging.series import bring
from cestprep.imaging.tissue import head_of
from cestprep.imaging.transforms import displacement_mm, grid_points
from cestprep.phantom import scan
from cestprep.phantom.motion import between_series, pose, series_poses
from cestprep.phantom.protocols import wasabi_protocol
from cestprep.physics import simulate
from cestprep.physics.pools import PoolModel

SNR, FREQUENCY, VOXEL_MM = 100, 123.25, 4.5


@pytest.fixture(scope="module")
def moved():
    """Volumes of a head that moved, poses relative to the first, the brain there, its T1 and T2."""
    rng, where = np.random.default_rng(5), heads.grid(VOXEL_MM)
    protocol = wasabi_protocol(FREQUENCY)

    def signal_of(p):
        named = {k: np.asarray(p[k], np.float32) for k in PoolModel(()).parameter_names}
        return np.asarray(simulate.signal(protocol, PoolModel(()), named))

    series = scan.make_series(scan.blur(heads.subject(0), where), signal_of)
    start = between_series(rng)
    poses = series_poses(protocol.n_volumes, start, (3.0, 3.0), rng)
    clean = [series.volume(i, where, p) for i, p in enumerate(poses)]
    data = scan.noisy(np.stack(clean, axis=-1), 1 / SNR, rng)
    brain = heads.brain(0, where, start)
    truth = scan.Truth(series.blurred, where, start)
    known = np.stack([truth.parameter(name)[brain] for name in ("t1", "t2")])
    return protocol, where, data, poses @ np.linalg.inv(start), brain, known


def errors(found, true, mask, affine):
    points = grid_points(mask, affine, 7)
    return np.array(
        [displacement_mm(a, b, points).mean() for a, b in zip(found, true, strict=True)]
    )


def test_volumes_are_aligned_by_what_the_fields_say(moved):
    protocol, where, data, true, brain, known = moved
    series = wasabi.Wasabi(data, where.affine, protocol, 0)
    relaxation = known, np.zeros((2, 2, known.shape[1]), np.float32)
    fit = wasabi.fit_moving(series, np.eye(4), where, brain, relaxation)
    still = errors(np.broadcast_to(np.eye(4), true.shape), true, brain, where.affine)
    left = errors(fit.transforms, true, brain, where.affine)
    assert fit.moved
    assert fit.nrmse[1] < fit.nrmse[0]
    assert still.mean() > 1
    assert left.mean() < 0.6 * still.mean()
    np.testing.assert_allclose(fit.transforms[0], np.eye(4), atol=1e-12)


def test_registration_that_does_not_lower_the_residual_is_turned_down(moved, monkeypatch):
    """As a whole: volumes put 2 mm off leave fields and places as they were without."""
    protocol, where, data, true, brain, known = moved
    steady = bring(data, where.affine, where, true).volumes
    some = brain & (steady > 0).all(axis=3)
    chosen = some[brain]
    series = wasabi.Wasabi(steady, where.affine, protocol, 0)
    relaxation = known[:, chosen], np.zeros((2, 2, chosen.sum()), np.float32)
    off = np.stack([pose((0, 0, 0), (0, 2.0 * (i % 2), 0)) for i in range(len(true))])
    monkeypatch.setattr(wasabi, "_registered", lambda *_: off)
    once = replace(THOROUGH, rounds=1)
    fit = wasabi.fit_moving(series, np.eye(4), where, some, relaxation, effort=once)
    assert not fit.moved
    assert fit.nrmse[1] > fit.nrmse[0]
    np.testing.assert_array_equal(fit.transforms, np.broadcast_to(np.eye(4), true.shape))


def test_a_series_is_found_by_its_anchor():
    rng, where = np.random.default_rng(6), heads.grid(VOXEL_MM)
    series = heads.recovery(0, [10.0, 2.0], VOXEL_MM)
    there = between_series(rng)
    first = scan.noisy(series.volume(0, where, np.eye(4)), 1 / SNR, rng)
    second = scan.noisy(series.volume(0, where, there), 1 / SNR, rng)
    head = head_of(first)
    found = alignment.align((first, where.affine), (second, where.affine), head)
    assert not found.failed
    assert found.moved_mm > 2
    assert errors([found.matrix], [there], head, where.affine)[0] < 0.5


def test_a_place_beyond_belief_is_not_used(monkeypatch):
    where = heads.grid(VOXEL_MM)
    image = heads.recovery(0, [10.0], VOXEL_MM).volume(0, where, np.eye(4))
    far = pose((0, 0, 60), (50, 0, 0))
    monkeypatch.setattr(alignment, "register_rigid", lambda *_, **__: far)
    found = alignment.align((image, where.affine), (image, where.affine), head_of(image))
    assert found.failed
    np.testing.assert_array_equal(found.matrix, np.eye(4))


def test_interpolated_noise_has_the_stated_share(moved):
    _, where, data, true, _, _ = moved
    rng = np.random.default_rng(7)
    noise = 5 + rng.standard_normal(data.shape).astype(np.float32)
    brought = bring(noise, where.affine, where, true)
    seen = (brought.volumes > 0).all(axis=3)
    assert 0.5 < seen.mean() < 1
    left = np.sqrt(np.mean((brought.volumes[seen] - 5) ** 2))
    assert left == pytest.approx(brought.noise_gain, rel=0.03)
    assert 0.6 < brought.noise_gain < 1
    partly = bring(noise, where.affine, where, true, partly=True).volumes
    assert (partly > 0).sum() > (brought.volumes > 0).sum()
