"""A small synthetic head: tissue labels, parameter maps and noisy signals with known truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from cestprep.phantom.tissues import TISSUES
from cestprep.physics import simulate
from cestprep.physics.pools import PoolModel
from cestprep.physics.protocol import Protocol

#: Label of each tissue in the label image.
LABELS = {"CSF": 1, "GM": 2, "WM": 3}

VARIATION = 0.05  # relative SD between voxels of a tissue


@dataclass(frozen=True)
class Head:
    """Labels on a grid and, for the voxels inside, every simulator parameter.

    Attributes
    ----------
    labels : ndarray of int, shape (x, y, z)
        0 outside, else a value of `LABELS`.
    parameters : mapping of str to ndarray, shape (V,)
        Values of the voxels with ``labels > 0``, in package units.
    """

    labels: np.ndarray
    parameters: Mapping[str, np.ndarray]

    @property
    def mask(self) -> np.ndarray:
        """Voxels inside."""
        return self.labels > 0

    def volume(self, values: np.ndarray) -> np.ndarray:
        """Values of the voxels inside on the grid, 0 outside; trailing volumes allowed."""
        volume = np.zeros((*self.labels.shape, *values.shape[:-1]), np.float32)
        volume[self.mask] = values.T
        return volume


def make_head(shape: tuple[int, int, int], seed: int) -> Head:
    """An ellipsoid of white matter in grey matter with two ventricles, and smooth field maps.

    Parameters
    ----------
    shape : (int, int, int)
    seed : int
        Seed of the variation between voxels.
    """
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape),
                          indexing="ij")  # fmt: skip
    radius = np.sqrt((x / 0.85) ** 2 + (y / 0.95) ** 2 + (z / 1.6) ** 2)
    ventricle = ((np.abs(x) - 0.2) / 0.12) ** 2 + (y / 0.3) ** 2 < 1
    labels = np.where(radius < 1, LABELS["GM"], 0)
    labels[radius < 0.72] = LABELS["WM"]
    labels[ventricle & (radius < 0.72)] = LABELS["CSF"]
    mask = labels > 0
    rng = np.random.default_rng(seed)
    parameters = {}
    for name in TISSUES["WM"]:
        mean = np.zeros(mask.sum())
        for tissue, label in LABELS.items():
            mean[labels[mask] == label] = TISSUES[tissue][name]
        parameters[name] = mean * (1 + VARIATION * rng.standard_normal(mean.size).clip(-3, 3))
    parameters["b0_ppm"] = (0.15 * x - 0.1 * y**2 + 0.05 * z)[mask]
    parameters["b1_scale"] = (1.08 - 0.2 * (x**2 + y**2))[mask]
    return Head(labels, parameters)


def noisy_signal(head: Head, protocol: Protocol, model: PoolModel, constants: Mapping[str, float],
                 snr: float, seed: int) -> np.ndarray:  # fmt: skip
    """Rician magnitudes of a protocol.

    Parameters
    ----------
    head, protocol, model
    constants : mapping of str to float
        Parameters equal in all voxels.
    snr : float
        Signal of fully relaxed water with m0 = 1 over the noise SD.
    seed : int

    Returns
    -------
    ndarray, shape (n_volumes, V)
    """
    names = set(model.parameter_names)
    p = {k: jnp.asarray(v) for k, v in {**head.parameters, **constants}.items() if k in names}
    clean = np.asarray(jax.jit(lambda q: simulate.signal(protocol, model, q))(p))
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((2, *clean.shape)) / snr
    magnitude: np.ndarray = np.hypot(clean + noise[0], noise[1]).astype(np.float32)
    return magnitude
