"""Maps on the grid of a template."""

from __future__ import annotations

import numpy as np
import pytest

from cestprep.imaging.grid import Grid
from cestprep.imaging.resampling import read_displacement, write_displacement
from cestprep.imaging.spaces import label_at, map_at, origins
from cestprep.imaging.transforms import apply

HEAD = Grid((24, 22, 20), np.diag([3.0, 3.0, 3.0, 1.0]))
LINEAR = np.array([[1.05, 0.02, 0, 4], [-0.03, 0.97, 0.01, -2], [0, 0.02, 1.02, 3], [0, 0, 0, 1]])


def displacement(points):
    """An affine one with a smooth bend, at points (3, V)."""
    bent = apply(LINEAR, points)
    bent[0] += 2 * np.sin(points[1] / 25)
    return bent - points


def displaced():
    return displacement(HEAD.points).T.reshape(*HEAD.shape, 3).astype(np.float32)


def inner():
    """A grid in the template's space whose origins lie inside the head's grid."""
    return Grid((6, 5, 4), np.array([[4.0, 0, 0, 28], [0, 4, 0, 20], [0, 0, 4, 26], [0, 0, 0, 1]]))


def test_origins_are_displaced_to_the_grid():
    found = origins(inner(), displaced(), HEAD.affine)
    np.testing.assert_allclose(found + displacement(found), inner().points, atol=0.02)


def test_a_displacement_survives_its_file(tmp_path):
    turned = HEAD.affine.copy()
    turned[:3, 3] = [5, -7, 11]
    write_displacement(str(tmp_path / "warp.h5"), displaced(), turned)
    np.testing.assert_allclose(read_displacement(str(tmp_path / "warp.h5")), displaced(), atol=1e-5)


def test_a_map_keeps_its_values_at_the_edge_of_what_is_known():
    volume = np.zeros(HEAD.shape)
    volume[5:15, 5:15, 5:15] = 7.0
    points = apply(HEAD.affine, np.array([[4.6, 10.2, 4.4], [10.0, 10.0, 10.0], [10.3, 9.7, 10.0]]))
    found = map_at(volume, volume > 0, HEAD.affine, points)
    np.testing.assert_allclose(found, [7.0, 7.0, 0.0])


def test_a_slope_is_interpolated_and_nothing_beyond():
    volume = HEAD.points[0].reshape(HEAD.shape)
    points = np.array([[10.5, -9.0], [12.0, 12.0], [12.0, 12.0]])
    found = map_at(volume, np.ones(HEAD.shape, bool), HEAD.affine, points)
    np.testing.assert_allclose(found, [10.5, 0.0], rtol=1e-6)


@pytest.mark.parametrize(("where", "label"), [((9.0, 9.0, 9.0), 3), ((1.4, 9, 9), 0)])
def test_labels_are_those_of_the_nearest_voxel(where, label):
    volume = np.zeros(HEAD.shape, np.int32)
    volume[1:] = 3
    found = label_at(volume, HEAD.affine, np.array(where)[:, None], blank=1)
    assert found.tolist() == [label]


def test_beyond_the_volume_labels_are_blank():
    volume = np.full(HEAD.shape, 3, np.int32)
    assert label_at(volume, HEAD.affine, np.array([[-9.0], [9], [9]]), blank=1).tolist() == [1]
