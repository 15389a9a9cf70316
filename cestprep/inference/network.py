"""The network: a voxel's signal and what is known about it to a Gaussian in unconstrained space.

Code for one voxel, vmapped by the caller: a voxel's answer cannot depend on its neighbours.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference.chunks import over_chunks
from cestprep.inference.likelihood import Voxels
from cestprep.inference.unconstrained import FARTHEST

_WIDTH, _DEPTH, _TOGETHER = 192, 3, 2048
#: Factor of the covariance: logarithms of its diagonal stay within these.
_LEAST_LOG, _MOST_LOG = -7.0, 1.5


def features(voxels: Voxels) -> Array:
    """Inputs of the network, shape (d, V): signal, known values, their errors, noise level."""
    q, r = voxels.factor.shape[:2]
    nothing = jnp.zeros_like(jnp.asarray(voxels.noise))
    below = [voxels.factor[i, j] if j < r else nothing for i in range(q) for j in range(i + 1)]
    rows = [
        jnp.asarray(voxels.data),
        jnp.asarray(voxels.known),
        *(jnp.asarray(x)[None] for x in below),
    ]
    return jnp.concatenate([*rows, jnp.log(jnp.asarray(voxels.noise))[None]])


class Network(eqx.Module):
    """Perceptron with skip connections.

    Attributes
    ----------
    first, last : Linear
    hidden : tuple of Linear
    centre, gain : Array, shape (d,)
        Mean of the inputs in training and one over their SD; 0 for what did not vary.
    n_parameters : int
    """

    first: eqx.nn.Linear
    hidden: tuple[eqx.nn.Linear, ...]
    last: eqx.nn.Linear
    centre: Array
    gain: Array
    n_parameters: int = eqx.field(static=True)

    @classmethod
    def initial(cls, inputs: np.ndarray, n_parameters: int, key: Array) -> Network:
        """Untrained network for inputs like these, shape (d, V)."""
        d, p = inputs.shape[0], n_parameters
        keys = jax.random.split(key, _DEPTH + 1)
        spread = inputs.std(axis=1)
        varies = spread > 1e-6 * np.maximum(np.abs(inputs).max(axis=1), 1e-12)
        return cls(
            first=eqx.nn.Linear(d, _WIDTH, key=keys[0]),
            hidden=tuple(eqx.nn.Linear(_WIDTH, _WIDTH, key=k) for k in keys[1:-1]),
            last=eqx.nn.Linear(_WIDTH, p + p * (p + 1) // 2, key=keys[-1]),
            centre=jnp.asarray(inputs.mean(axis=1), jnp.float32),
            gain=jnp.asarray(np.where(varies, 1 / np.where(varies, spread, 1), 0), jnp.float32),
            n_parameters=p,
        )

    def __call__(self, inputs: Array) -> tuple[Array, Array]:
        """Mean ``(p,)`` and lower factor ``(p, p)`` of the covariance."""
        x = jax.nn.gelu(self.first((inputs - self.centre) * self.gain))
        for layer in self.hidden:
            x = x + jax.nn.gelu(layer(x))
        out, p = self.last(x), self.n_parameters
        mean = FARTHEST * jnp.tanh(out[:p] / FARTHEST)
        diagonal = jnp.exp(_soft_clip(out[p : 2 * p] - 1.0))
        factor = jnp.diag(diagonal)
        below = jnp.tril_indices(p, -1)
        return mean, factor.at[below].set(out[2 * p :])


def _soft_clip(x: Array) -> Array:
    """Nearly x between the limits of the logarithm, and never beyond."""
    middle, half = 0.5 * (_MOST_LOG + _LEAST_LOG), 0.5 * (_MOST_LOG - _LEAST_LOG)
    return middle + half * jnp.tanh((x - middle) / half)


def infer(network: Network, voxels: Voxels) -> tuple[np.ndarray, np.ndarray]:
    """Means ``(p, V)`` and factors ``(p, p, V)`` of any number of voxels.

    In batches of one size: products of matrices of another shape may round otherwise.
    """
    answers: tuple[np.ndarray, np.ndarray] = over_chunks(
        lambda *chunk: _infer_chunk(network, Voxels(*chunk)), list(voxels), _TOGETHER
    )
    return answers


def predict(network: Network, voxels: Voxels) -> tuple[Array, Array]:
    """Means and factors of some voxels, to be traced."""
    answers: tuple[Array, Array] = jax.vmap(network, in_axes=-1, out_axes=-1)(features(voxels))
    return answers


_infer_chunk = eqx.filter_jit(predict)
