"""Free parameters without bounds: the logit of their place in the recipe's range.

A uniform prior in the range is a logistic density there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from cestprep.inference.problem import InverseProblem

#: Farther out a range's end is 3e-4 of its width away.
FARTHEST = 8.0


def to_theta(problem: InverseProblem, u: Array) -> Array:
    """Parameters in package units, shape (p, ...)."""
    low, width = _range(problem, u)
    return low + width * jax.nn.sigmoid(u)


def to_u(problem: InverseProblem, theta: Array) -> Array:
    """Unconstrained values of parameters, at most `FARTHEST` from the middle."""
    low, width = _range(problem, theta)
    end = jax.nn.sigmoid(-jnp.asarray(FARTHEST, theta.dtype))
    place = jnp.clip((theta - low) / width, end, 1 - end)
    return jnp.log(place) - jnp.log1p(-place)


def slope(problem: InverseProblem, u: Array) -> Array:
    """Derivative of each parameter by its unconstrained value."""
    share = jax.nn.sigmoid(u)
    return _range(problem, u)[1] * share * (1 - share)


def log_prior(u: Array) -> Array:
    """Logarithm of the prior density, shape (...), of (p, ...)."""
    return jnp.sum(jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u), axis=0)


def _range(problem: InverseProblem, like: Array) -> tuple[Array, Array]:
    shape = (len(problem.free), *[1] * (like.ndim - 1))
    low, high = (jnp.asarray(b, like.dtype).reshape(shape) for b in problem.bounds.T)
    return low, high - low
