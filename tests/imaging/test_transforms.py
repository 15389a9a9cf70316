"""Algebra of rigid transforms, and resampling through them."""

from __future__ import annotations

import numpy as np
import pytest

from cestprep.imaging import registration, transforms
from cestprep.imaging.grid import Grid
from cestprep.imaging.resampling import resample, to_sitk
from cestprep.phantom.motion import pose

MOVE = pose((4.0, -3.0, 7.0), (2.0, -5.0, 1.5))


def test_elastix_parameters_and_matrices_are_two_ways_to_say_the_same():
    said = registration._rigid_map(MOVE)
    np.testing.assert_allclose(registration._rigid_matrix(said), MOVE, atol=1e-9)


def test_a_point_moves_as_simpleitk_says():
    """Its transforms are between LPS points."""
    from cestprep.imaging.resampling import to_itk_transform

    point = np.array([10.0, 20.0, -5.0])
    ours = transforms.apply(MOVE, point[:, None])[:, 0]
    theirs = to_itk_transform(MOVE).TransformPoint((-point * [1, 1, -1]).tolist())
    np.testing.assert_allclose(np.array(theirs) * [-1, -1, 1], ours, atol=1e-9)


def blob(points):
    """A smooth image as a function of places (3, V)."""
    centre = np.array([[3.0], [-4.0], [2.0]])
    return np.exp(-(((points - centre) / [[9.0], [7.0], [8.0]]) ** 2).sum(axis=0))


def test_resampling_is_the_image_at_the_moved_points():
    affine = np.array([[0, -2.0, 0, 20], [1.9, 0, 0, -22], [0, 0, 2.1, -18], [0, 0, 0, 1]])
    shape = (24, 22, 18)
    source = Grid(shape, affine)
    index = np.indices(shape).reshape(3, -1)
    data = blob(transforms.apply(affine, index)).reshape(shape).astype(np.float32)
    target = Grid((20, 20, 20), pose((0, 0, 10), (-12, -16, -12)) @ np.diag([1.2, 1.3, 1.4, 1.0]))
    index = np.indices(target.shape).reshape(3, -1)
    points = transforms.apply(target.affine, index)
    turned = pose((0, 5, 0), (0.5, 0, 0))
    expected = blob(transforms.apply(turned, transforms.apply(MOVE, points))).reshape(target.shape)
    found = resample(data, source.affine, target, [MOVE, turned])
    np.testing.assert_allclose(found, expected, atol=0.01)
    np.testing.assert_allclose(resample(data, affine, source), data, atol=1e-5)


def test_a_sheared_affine_is_refused():
    affine = np.eye(4)
    affine[0, 1] = 0.3
    with pytest.raises(ValueError, match="shears"):
        to_sitk(np.zeros((2, 2, 2)), affine)


def test_half_way():
    half = transforms.between(np.eye(4), MOVE, 0.5)
    np.testing.assert_allclose(half[:3, 3], MOVE[:3, 3] / 2)
    assert transforms.angle_deg(half) == pytest.approx(transforms.angle_deg(MOVE) / 2)


def test_framewise_displacement_is_powers():
    """A shift of 1 mm, then a turn of 0.02 rad about the centre: 1 mm and an arc of 1 mm."""
    centre = np.array([10.0, -20.0, 30.0])
    shift = pose((0, 0, 0), (0, 1, 0))
    turn = pose((np.rad2deg(0.02), 0, 0), (0, 0, 0))
    about = np.eye(4)
    about[:3, 3] = centre
    both = about @ turn @ np.linalg.inv(about)
    both[:3, 3] += (0, 1, 0)
    found = transforms.motion_parameters(np.stack([np.eye(4), shift, both]), centre)
    np.testing.assert_allclose(found[2], [0, 1, 0, 0.02, 0, 0], atol=1e-9)
    np.testing.assert_allclose(transforms.framewise_displacement(found)[1:], [1, 1], atol=1e-9)
    assert np.isnan(transforms.framewise_displacement(found)[0])
