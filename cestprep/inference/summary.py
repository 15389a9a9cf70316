"""What is told of a voxel's posterior in cells: moments, intervals, evidence, densest region."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference.density import Density, Layout
from cestprep.inference.measured import GAUSSIAN_QUANTILE


class Summary(NamedTuple):
    """Moments and intervals of a voxel's posterior, package units.

    Attributes
    ----------
    mean : Array, shape (p,)
    covariance : Array, shape (p, p)
    lower, upper : Array, shape (p,)
        Central 95 % intervals of the marginals.
    best : Array, shape (p,)
        Cell of highest likelihood.
    log_evidence : Array
        Of the normalised data under the uniform prior, less the constant of the noise.
    cells_in_region : Array
        Cells that hold the densest 95 % of the mass.
    log_likelihood_95 : Array
        Least log-likelihood inside the 95 % highest-density region.
    at_bound : Array of bool
        The best cell lies at the end of a range.
    """

    mean: Array
    covariance: Array
    lower: Array
    upper: Array
    best: Array
    log_evidence: Array
    cells_in_region: Array
    log_likelihood_95: Array
    at_bound: Array


def summarize(layout: Layout, density: Density, low: Array, high: Array) -> Summary:
    """Moments, intervals, evidence and highest-density region of one voxel."""
    weight = jax.nn.softmax(density.log_mass)
    mean = jnp.sum(density.theta * weight, axis=1)
    away = density.theta - mean[:, None]
    covariance = jnp.einsum("ic,jc,c->ij", away, away, weight)
    if layout.linear is not None:
        covariance = covariance.at[layout.linear, layout.linear].add(
            jnp.sum(density.spread * weight)
        )
    order = jnp.argsort(-density.log_likelihood)
    enclosed = jnp.cumsum(weight[order])
    count = jnp.sum(enclosed < 0.95) + 1
    bounds = layout.problem.bounds[layout.gridded]
    cell = jnp.sum(jnp.log(high - low)) - layout.dimensions * np.log(layout.cells)
    prior = float(np.sum(np.log(bounds[:, 1] - bounds[:, 0])))
    lower, upper = _intervals(layout, density, weight, mean, covariance, low, high)
    return Summary(
        mean,
        covariance,
        lower,
        upper,
        density.theta[:, order[0]],
        jax.scipy.special.logsumexp(density.log_mass) + cell - prior,
        count,
        density.log_likelihood[order[jnp.minimum(count - 1, order.size - 1)]],
        _at_bound(layout, density.theta[:, order[0]], low, high),
    )


def _at_bound(layout: Layout, best: Array, low: Array, high: Array) -> Array:
    bounds = jnp.asarray(layout.problem.bounds[layout.gridded], best.dtype)
    reach = 1e-3 * (bounds[:, 1] - bounds[:, 0])
    if not layout.curved:
        reach = jnp.maximum(reach, 0.6 * (high - low) / layout.cells)
    here = best[jnp.array(layout.gridded)]
    return jnp.any((here < bounds[:, 0] + reach) | (here > bounds[:, 1] - reach))


def _intervals(
    layout: Layout,
    density: Density,
    weight: Array,
    mean: Array,
    covariance: Array,
    low: Array,
    high: Array,
) -> tuple[Array, Array]:
    """Central 95 % intervals; of an analytic scale, from its moments."""
    tails = jnp.asarray([0.025, 0.975], weight.dtype)
    d = layout.dimensions
    ends = []
    for i in range(mean.shape[0]):
        if i == layout.linear:
            sd = jnp.sqrt(covariance[i, i])
            ends.append(mean[i] + jnp.asarray([-1, 1], weight.dtype) * GAUSSIAN_QUANTILE * sd)
        elif layout.curved:
            order = jnp.argsort(density.theta[i])
            middle = jnp.cumsum(weight[order]) - 0.5 * weight[order]
            ends.append(jnp.interp(tails, middle, density.theta[i][order]))
        else:
            axis = layout.gridded.index(i)
            shape = [layout.cells] * d
            margin = jnp.sum(weight.reshape(shape), axis=tuple(a for a in range(d) if a != axis))
            cumulated = jnp.concatenate([jnp.zeros(1, weight.dtype), jnp.cumsum(margin)])
            edges = jnp.linspace(low[axis], high[axis], layout.cells + 1)
            ends.append(jnp.interp(tails, cumulated, edges))
    both = jnp.stack(ends)
    return both[:, 0], both[:, 1]
