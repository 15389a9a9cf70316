"""Tiny linear algebra against NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from cestprep.inference import linalg


def covariances(p, count=50):
    """Of lengths from 1 to 1000 in random directions."""
    rng = np.random.default_rng(p)
    turned = np.linalg.qr(rng.standard_normal((count, p, p)))[0]
    lengths = np.exp(rng.uniform(0, np.log(1000), (count, p)))
    return np.moveaxis((turned * lengths[:, None]) @ np.swapaxes(turned, 1, 2), 0, -1)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_principal_axes(p, x64):
    covariance = jnp.asarray(covariances(p))
    axes = np.asarray(linalg.principal_axes(covariance))
    np.testing.assert_allclose(
        np.einsum("iav,jav->ijv", axes, axes), covariance, rtol=1e-6, atol=1e-6
    )
    gram = np.einsum("iav,ibv->abv", axes, axes)
    expected = np.linalg.eigvalsh(np.moveaxis(covariance, -1, 0))[:, ::-1].T
    np.testing.assert_allclose(np.einsum("aav->av", gram), expected, rtol=1e-6)
    assert np.abs(gram - np.eye(p)[:, :, None] * gram).max() < 1e-6
    vectors = np.random.default_rng(0).standard_normal((p, covariance.shape[-1]))
    along = np.asarray(linalg.along_axes(axes, vectors))
    np.testing.assert_allclose(np.einsum("iav,av->iv", axes, along), vectors, atol=1e-9)


def test_axes_without_extent_are_a_small_share_of_the_longest(x64):
    flat = jnp.array([[4.0, 2.0], [2.0, 1.0]])[:, :, None]
    lengths = np.linalg.norm(np.asarray(linalg.principal_axes(flat))[:, :, 0], axis=0)
    np.testing.assert_allclose(lengths, np.sqrt(5) * np.array([1, 1e-4]), rtol=1e-6)
