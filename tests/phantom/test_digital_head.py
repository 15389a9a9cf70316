"""The digital head: own anatomy near the template's, exact signals, motion that is what it says."""

from __future__ import annotations

import numpy as np
import pytest

from cestprep.data.template import brain_template
from cestprep.imaging.grid import Grid
from cestprep.phantom import anatomy, motion, scan
from cestprep.phantom.smooth import SD_PER_FWHM, smooth_field
from cestprep.phantom.tissues import HEAD_TISSUES
from cestprep.physics import relaxometry

BOX = ((-90, 90), (-115, 85), (-5, 35))
DELAYS = np.array([10.0, 1.0, 0.2])


@pytest.fixture(scope="module")
def template():
    return brain_template()


@pytest.fixture(scope="module")
def head(template):
    return anatomy.make_anatomy(template, BOX, seed=0, spacing_mm=2.0)


@pytest.fixture(scope="module")
def series(head):
    subject = scan.make_subject(head, seed=0)

    def recovery(p):
        return np.asarray(p["m0"] * relaxometry.saturation_recovery(1.0, p["t1"], DELAYS))

    return scan.make_series(scan.blur(subject, grid()), recovery)


def grid(shape=(50, 60, 8)):
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = (-75, -105, 3)
    return Grid(shape, affine)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_every_voxel_has_one_tissue_or_is_air(head):
    total = sum(head.fractions.values())
    assert set(np.unique(total)) == {0.0, 1.0}
    assert sum(head.fractions[name] for name in anatomy.BRAIN)[head.brain].min() == 1
    for name in (*anatomy.BRAIN, *anatomy.AROUND):
        assert head.fractions[name].any()


def test_anatomy_is_like_the_template_but_its_own(template, head):
    """Labels most likely by the template agree with ours partly; another seed is another head."""
    inverse = np.linalg.inv(template.affine)
    index = np.moveaxis(head.to_template @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)
    nearest = tuple(np.clip(np.round(index[i]).astype(int), 0, template.wm.shape[i] - 1)
                    for i in range(3))  # fmt: skip
    likely = (template.wm > template.gm)[nearest] & head.brain
    assert 0.6 < dice(likely, head.fractions["WM"] > 0) < 0.95
    other = anatomy.make_anatomy(template, BOX, seed=1, spacing_mm=2.0)
    assert 0.5 < dice(other.fractions["WM"] > 0, head.fractions["WM"] > 0) < 0.9
    same = anatomy.make_anatomy(template, BOX, seed=0, spacing_mm=2.0)
    np.testing.assert_array_equal(same.fractions["GM"], head.fractions["GM"])


def test_pure_voxels_have_the_signal_of_their_tissue(series):
    image = series.volume(0, grid(), np.eye(4))
    points, blurred = grid().points, series.blurred
    for tissue in ("WM", "GM"):
        share = scan.sample(blurred.fractions[tissue], blurred.subject.anatomy.affine, points)
        pure = share > 0.999
        assert pure.sum() > 20
        mean = HEAD_TISSUES[tissue]
        expected = mean["m0"] * -np.expm1(-10 / mean["t1"])
        assert image.ravel()[pure].mean() == pytest.approx(expected, rel=0.05)
        assert image.ravel()[pure].std() < 0.08 * expected


def test_moving_the_head_is_moving_the_grid_the_other_way(series):
    moved = motion.pose((2.0, -1.0, 3.0), (1.0, 2.5, -0.5))
    there = series.volume(1, grid(), moved)
    fixed = grid()
    here = series.volume(1, Grid(fixed.shape, np.linalg.inv(moved) @ fixed.affine), np.eye(4))
    np.testing.assert_allclose(there, here, atol=1e-4)
    assert np.abs(there - series.volume(1, fixed, np.eye(4))).mean() > 0.01


def test_motion_stays_within_its_limits():
    rng = np.random.default_rng(0)
    for _ in range(20):
        start = motion.between_series(rng)
        assert 3 <= np.linalg.norm(start[:3, 3]) <= 7
        poses = motion.series_poses(31, start, (3.0, 3.0), rng)
        np.testing.assert_allclose(poses[0], start, atol=1e-12)
        relative = poses @ np.linalg.inv(start)
        shifts = np.linalg.norm(relative[:, :3, 3], axis=1)
        cosine = (np.trace(relative[:, :3, :3], axis1=1, axis2=2) - 1) / 2
        degrees = np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))
        assert 1.5 < shifts.max() <= 3.0 + 1e-9
        assert 1.5 < degrees.max() <= 3.1  # angles about three axes, of which the norm is limited


def test_smooth_fields_have_their_spread_and_smoothness():
    """Correlation of white noise after a Gaussian filter of SD s at distance d: exp(-d2/4s2)."""
    field = smooth_field((80, 80, 80), 2.0, 12.0, np.random.default_rng(0))
    assert field.std() == pytest.approx(1, abs=0.1)
    distance, sd = 8.0, 12.0 * SD_PER_FWHM
    correlation = np.corrcoef(field[4:].ravel(), field[:-4].ravel())[0, 1]
    assert correlation == pytest.approx(np.exp(-(distance**2) / (4 * sd**2)), abs=0.1)


def test_noise_is_rician():
    rng = np.random.default_rng(0)
    air = scan.noisy(np.zeros(100_000), 2.0, rng)
    assert air.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.01)
    bright = scan.noisy(np.full(100_000, 100.0), 2.0, rng)
    assert bright.std() == pytest.approx(2, rel=0.02)
    assert bright.mean() == pytest.approx(np.sqrt(100**2 + 2**2), rel=1e-3)


def test_receive_bias_is_smooth_and_of_mean_one():
    bias = scan.receive_bias(grid((60, 60, 30)), seed=0)
    assert bias.mean() == pytest.approx(1)
    assert 0.03 < bias.std() < 0.4
    assert np.abs(np.diff(bias, axis=0)).max() < 0.03


def test_a_lesion_takes_the_place_of_tissue(head):
    with_lesion = anatomy.add_lesion(head, (30.0, 10.0, 15.0), 12.0)
    lesion = with_lesion.fractions["lesion"] > 0
    volume_mm3 = lesion.sum() * head.affine[0, 0] ** 3
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 12**3 * 1.2 * 0.9, rel=0.1)
    assert set(np.unique(sum(with_lesion.fractions.values()))) == {0.0, 1.0}
    for name in anatomy.BRAIN:
        assert not (with_lesion.fractions[name] > 0)[lesion].any()
