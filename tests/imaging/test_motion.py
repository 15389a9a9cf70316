"""Motion of a digital head, whose contrast inverts as it gets dim, against what was simulated."""

from __future__ import annotations

import heads
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from cestprep.imaging.motion import estimate_motion
from cestprep.imaging.transforms import displacement_mm, grid_points
from cestprep.phantom import scan
from cestprep.phantom.motion import between_series, pose, series_poses

DELAYS = np.array([10.0, 0.6, 4.0, 0.9, 0.4, 1.5])
SNR = 70


def moved_series(seed, change=None):
    """Volumes with noise, the true transforms from the first, and the brain in it."""
    rng = np.random.default_rng(seed)
    where, series = heads.grid(), heads.recovery(0, DELAYS)
    start = between_series(rng)
    poses = series_poses(len(DELAYS), start, (3.0, 3.0), rng)
    if change is not None:
        change(poses)
    bias = scan.receive_bias(where, seed)
    volumes = [bias * series.volume(i, where, p) for i, p in enumerate(poses)]
    data = scan.noisy(np.stack(volumes, axis=-1), 1 / SNR, rng)
    return data, where.affine, poses @ np.linalg.inv(start), heads.brain(0, where, start)


def errors(found, truth, mask, affine):
    points = grid_points(mask, affine, 3)
    return np.array(
        [displacement_mm(a, b, points).mean() for a, b in zip(found, truth, strict=True)]
    )


def test_dim_volumes_of_inverted_contrast_are_aligned():
    """To a sixth of these coarse voxels; what real ones allow is measured by ``make validate``."""
    data, affine, truth, mask = moved_series(0)
    still = errors(np.broadcast_to(np.eye(4), truth.shape), truth, mask, affine)
    motion = estimate_motion(data, affine, binary_dilation(mask, iterations=2))
    left = errors(motion.transforms, truth, mask, affine)
    assert still.max() > 1.5
    assert left[1:].mean() < 0.5
    assert left.max() < 0.75
    np.testing.assert_array_equal(motion.transforms[0], np.eye(4))
    assert not motion.lost.any()


def test_a_lost_volume_is_found_and_put_between_its_neighbours():
    def jump(poses):
        poses[3] = pose((12.0, 0, 0), (0, 0, 14.0)) @ poses[3]

    data, affine, _, mask = moved_series(1, jump)
    motion = estimate_motion(data, affine, binary_dilation(mask, iterations=2))
    assert np.flatnonzero(motion.lost).tolist() == [3]
    two = motion.transforms[[2, 4]]
    middle = np.mean([m[:3, 3] for m in two], axis=0)
    np.testing.assert_allclose(motion.transforms[3][:3, 3], middle, atol=1e-6)


@pytest.mark.parametrize("reference", [0, 2])
def test_another_reference_is_the_identity(reference):
    data, affine, truth, mask = moved_series(2)
    few = data[..., :3]
    motion = estimate_motion(few, affine, binary_dilation(mask, iterations=2), reference)
    np.testing.assert_array_equal(motion.transforms[reference], np.eye(4))
    there = truth[:3] @ np.linalg.inv(truth[reference])
    assert errors(motion.transforms, there, mask, affine).max() < 0.75
